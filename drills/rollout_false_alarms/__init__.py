"""Drill: ramps that change nothing are not rolled back, however often one looks."""
