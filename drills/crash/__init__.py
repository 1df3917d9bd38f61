"""Drill: processes that are killed at random moments leave what they would have left without it.

Each module whose name ends in `_drill` has a coroutine function `drill(kills)` that returns rows like
`{"drill": ..., "kills": ..., "expected": ..., "observed": ..., "ok": ...}`; `python -m drills.crash` runs them all.
"""
