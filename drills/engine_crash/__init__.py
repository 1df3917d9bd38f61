"""Kills of the embedded engine, full disks and logs that cannot be read: nothing acknowledged may be lost."""
