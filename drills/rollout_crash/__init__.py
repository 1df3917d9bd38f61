"""Drill: the rollout service, killed at random moments during ramps."""
