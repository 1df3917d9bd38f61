"""`sluice feedback`: what people did with answers."""

from sluice_cli.feedback import sample
from sluice_cli.feedback.export import app

__all__ = ["app", "sample"]
