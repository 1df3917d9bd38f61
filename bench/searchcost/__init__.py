"""The processor time of a search, by process, over Qdrant's protocol."""
