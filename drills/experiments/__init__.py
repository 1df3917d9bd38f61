"""Drill: simulated people say which ranking they prefer, and what is broken is stopped without help."""
