"""The lint check of house rules."""

from __future__ import annotations

import pytest

from tools.house_rules import docstrings, is_question, unsafe_readers

SOURCE = '''
"""A module."""
EDGES = (1, 2)
"""Edges in seconds."""
"""A string that documents nothing."""

class A:
    """A class."""

    size: int
    """Its size."""

    def method(self):
        """A method."""
        "no docstring"

async def function():
    """A function."""

if True:
    "no docstring either"
'''


def test_docstrings_of_modules_classes_functions_and_attributes_are_found() -> None:
    found = {text for _, text in docstrings(SOURCE)}
    assert found == {"A module.", "Edges in seconds.", "A class.", "Its size.", "A method.", "A function."}


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("What comes of it.", True),
        ("  whether, or not.", True),
        ("Whatever it is.", False),
        ("Split a document.", False),
        ("", False),
    ],
)
def test_a_docstring_that_begins_with_a_question_word_is_told_from_others(text: str, question: bool) -> None:
    assert is_question(text) is question


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("np.load(file)", []),
        ("np.load(file, allow_pickle=False)", []),
        ("np.load(file, allow_pickle=True)", ["allow_pickle=True"]),
        ("np.load(file, allow_pickle=given)", ["allow_pickle=given"]),
        ("torch.load(file)", ["torch.load"]),
        ("torch.load(file, weights_only=False)", ["torch.load", "weights_only=False"]),
        ("AutoModel.from_pretrained(name, trust_remote_code=True)", ["trust_remote_code=True"]),
    ],
)
def test_a_call_that_may_run_what_it_reads_is_found(call: str, found: list[str]) -> None:
    assert [argument for _, argument in unsafe_readers(call)] == found
