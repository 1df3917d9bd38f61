"""Regressions that reach some users through a rollout, and are taken back with nobody's help."""
