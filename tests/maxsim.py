"""The comparison of token vectors that engines make, in numpy."""

from __future__ import annotations

import numpy as np

from services.late.codes import Codes


def maxsim(query: Codes, passage: Codes) -> float:
    """Sum over the query's rows the greatest dot product with a row of the passage."""
    products = query.astype(np.float32) @ passage.astype(np.float32).T
    return float(products.max(axis=1).sum())
