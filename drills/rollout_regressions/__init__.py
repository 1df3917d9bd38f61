"""Drill: regressions that reach some users through a rollout are taken back without help."""
