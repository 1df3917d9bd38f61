"""Indexing: what `sluice index` makes of the embedder behind it, and the memory that it takes.

platform.py      the three stages that indexing needs, as real processes, and the command as another
measurements.py  one function for each thing that is measured
"""
