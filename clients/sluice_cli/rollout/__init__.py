"""`sluice rollout`: features on their way to users, in the operator's hands."""
