"""Answers with results of two arms: what they cost, and that two equal arms change nothing."""
