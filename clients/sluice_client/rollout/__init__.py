"""Rolling features out, by the rollout service."""
