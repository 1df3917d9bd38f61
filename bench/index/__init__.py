"""Benchmark of `sluice index`: its rate against the embedder's, and its memory.

platform.py      the three stages that indexing needs, as real processes, and the command as another
measurements.py  one function for each thing that is measured
"""
