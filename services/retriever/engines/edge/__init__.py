"""Qdrant Edge, embedded in a child process."""
