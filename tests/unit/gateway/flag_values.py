"""Hypothesis strategies that follow the table of flags."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from services.experiment.flags import FLAGS, Flag, Overrides
from services.gateway.search.flags import Features


def value_of(flag: Flag) -> st.SearchStrategy[Any]:
    if flag.kind is bool:
        return st.booleans()
    return st.sampled_from(flag.choices) if flag.choices else st.integers(flag.least, flag.most)


VALUES = {name: value_of(flag) for name, flag in FLAGS.items()}
overrides = st.fixed_dictionaries({}, optional=VALUES).map(lambda values: Overrides(**values))
features = (
    st.fixed_dictionaries(VALUES)
    .map(lambda values: Features(**values))
    .filter(lambda decided: decided.dense or decided.lexical)
)
