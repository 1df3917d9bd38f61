"""`sluice experiment`: which of several configurations people prefer."""

from sluice_cli.experiment import commands, looking, planning
from sluice_cli.experiment.app import app

__all__ = ["app", "commands", "looking", "planning"]
