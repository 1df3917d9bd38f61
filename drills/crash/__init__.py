"""What is killed at random moments and has to end as if it had not been.

Each module whose name ends in `_drill` has a coroutine function `drill(kills)` that returns rows like
`{"drill": ..., "kills": ..., "expected": ..., "observed": ..., "ok": ...}`; `python -m drills.crash` runs them all.
"""
