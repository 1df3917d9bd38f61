"""RPCs of all stages, each with a well-formed request and the properties of its answers."""
