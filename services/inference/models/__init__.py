"""Models: where they come from, what they are, and how the fast path reads them.

`resolver` finds a model by name, `onnx` runs it. `export`, `dequantize` and `reference` need torch or onnx and are
used by the serving processes only through a child process (`artifacts`), so that those stay small.
"""
