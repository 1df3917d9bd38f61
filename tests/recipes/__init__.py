"""Recipes of CONTRIBUTING.md, applied to a scratch copy of the repository."""
