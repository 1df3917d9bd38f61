"""`sluice rollout`: features on their way to users."""

from sluice_cli.rollout import commands, looking
from sluice_cli.rollout.app import app

__all__ = ["app", "commands", "looking"]
