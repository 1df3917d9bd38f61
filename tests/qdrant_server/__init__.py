"""A Qdrant for tests where none is installed: its own gRPC protocol over its own engine, alone or as a cluster."""

from tests.qdrant_server.real import RealQdrant
from tests.qdrant_server.rpc import Fault
from tests.qdrant_server.server import QdrantServer

__all__ = ["Fault", "QdrantServer", "RealQdrant"]
