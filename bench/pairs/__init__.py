"""Searches of this checkout against those of an earlier commit, in pairs."""
