"""The whole platform as processes on this machine: for the demo, for tests, and for `make up`. Linux only."""

from deploy.local.stack import STAGES, LocalStack

__all__ = ["STAGES", "LocalStack"]
