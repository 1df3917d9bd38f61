"""Cost of what guards a stage: identity, policies, quotas, audit log."""
