"""The gateway hands filters and metadata on without looking inside, so both protos must say the same."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto

from sluice.gateway.v1 import gateway_pb2
from sluice.retriever.v1 import retriever_pb2


@pytest.mark.parametrize("name", ["Value", "StringList", "Filter", "Condition", "ValueList", "Range"])
def test_the_gateways_message_is_the_retrievers_on_the_wire(name: str) -> None:
    shapes = []
    for module in (gateway_pb2, retriever_pb2):
        shape = DescriptorProto()
        getattr(module, name).DESCRIPTOR.CopyToProto(shape)
        for field in shape.field:
            field.type_name = field.type_name.rpartition(".")[2]
        shapes.append(shape)
    assert shapes[0] == shapes[1]
