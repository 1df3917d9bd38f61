from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.common.inference import least_tokens


@given(st.lists(st.lists(st.text("abcdef", min_size=1), min_size=1, max_size=30).map(" ".join), min_size=2))
def test_a_text_never_has_fewer_tokens_than_are_foreseen(texts: list[str]) -> None:
    words = sum(len(text.split()) for text in texts)
    assert least_tokens(texts, most=1000) <= words


def test_what_the_model_would_cut_off_is_not_foreseen() -> None:
    assert least_tokens(["a " * 500, "b " * 500], most=256) == 512


def test_a_single_text_is_always_tokenized_first() -> None:
    assert least_tokens(["many words of a single text"], most=256) == 0
