"""The embedded engine: its cost, memory and answers, here against an earlier commit's, and at a million passages."""
