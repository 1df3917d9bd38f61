"""A collection copied from one engine to another and back while it is read and written."""
