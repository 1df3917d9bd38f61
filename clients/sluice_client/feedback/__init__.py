"""What people do with answers: events to record, and answers with their events to read."""
