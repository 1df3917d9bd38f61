"""The stages as images: built, looked at, and run together by compose.yaml."""
