"""Images of the stages, built, checked, and run together by compose.yaml."""
