"""Answers that need more than one passage: what hops gain, and what they cost."""
