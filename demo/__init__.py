"""The demonstration: the documentation of Python's standard library, asked real questions."""
