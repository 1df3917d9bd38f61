"""The gateway's services over one channel."""

from __future__ import annotations

import grpc

from sluice.gateway.v1 import (
    answer_pb2_grpc,
    collections_pb2_grpc,
    documents_pb2_grpc,
    search_pb2_grpc,
    status_pb2_grpc,
)


class GatewayStubs:
    """One stub for every service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.answers = answer_pb2_grpc.AnswerServiceStub(channel)
        self.search = search_pb2_grpc.SearchServiceStub(channel)
        self.answers = answer_pb2_grpc.AnswerServiceStub(channel)
        self.documents = documents_pb2_grpc.DocumentServiceStub(channel)
        self.collections = collections_pb2_grpc.CollectionServiceStub(channel)
        self.status = status_pb2_grpc.StatusServiceStub(channel)
