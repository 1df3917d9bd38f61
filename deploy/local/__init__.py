"""All stages as processes on this machine, for the demo, tests and `make up`. Linux only."""

from deploy.local.stack import STAGES, LocalStack

__all__ = ["STAGES", "LocalStack"]
