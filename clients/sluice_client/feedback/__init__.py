"""Feedback: events to record, and answers with their events to read."""
