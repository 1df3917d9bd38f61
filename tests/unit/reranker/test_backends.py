"""The tokens that a cross-encoder is given, by a real tokenizer and no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, processors

from services.inference.models.info import ModelInfo, ModelSpec
from services.inference.models.tokenization import Tokenizer
from services.reranker.backends import ModelBackend
from services.reranker.windows import READ_CHARACTERS

WORDS = ["the", "ship", "sails", "storm", "harbour", "rests", "calm", ".", "?"]
LIMIT = 64


def tokenizer() -> Tokenizer:
    """One token a word; words that it does not know are all one."""
    vocabulary = {word: number for number, word in enumerate(["[UNK]", "[CLS]", "[SEP]", *WORDS])}
    library = Library(models.WordLevel(vocabulary, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return Tokenizer(library.to_str(), LIMIT)


class Reading:
    """A runtime that only reads."""

    info = ModelInfo(
        name="words",
        fingerprint="words",
        dimension=1,
        max_token_count=LIMIT,
        backend="none",
        precision="fp32",
        device="cpu",
    )
    spec = ModelSpec(dimension=1, max_token_count=LIMIT, pad_token_id=0, prompts={})
    tokenizer = tokenizer()

    def width(self, token_count: int) -> int:
        return token_count

    def warm_up(self, batch_tokens: int) -> None:
        pass

    def run(
        self,
        ids: Sequence[list[int]],
        type_ids: Sequence[list[int]] | None = None,
        attended: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        raise NotImplementedError


texts = st.lists(st.sampled_from([*WORDS, "Cargo", "\n"]), min_size=1, max_size=120).map(" ".join)


@given(texts, st.lists(texts, min_size=1, max_size=5), st.integers(1, 40))
def test_no_more_of_a_passage_is_read_than_was_set_and_what_is_left_out_is_told(
    query: str, passages: list[str], room: int
) -> None:
    for pair, whole in zip(
        ModelBackend(Reading(), room).tokenize(query, passages), Reading.tokenizer.pieces(passages, 200), strict=True
    ):
        of_passage = [token for token, side in zip(pair.ids, pair.type_ids, strict=True) if side][:-1]
        assert len(of_passage) <= min(room, len(whole))
        fits = len(whole) <= room and pair.token_count < LIMIT
        assert not fits or of_passage == whole
        assert pair.truncated == (len(of_passage) < len(whole))


@given(texts, st.lists(texts, min_size=1, max_size=5), st.integers(1, 40))
def test_what_is_read_of_a_passage_does_not_depend_on_the_others(query: str, passages: list[str], room: int) -> None:
    backend = ModelBackend(Reading(), room)
    assert backend.tokenize(query, passages) == [backend.tokenize(query, [passage])[0] for passage in passages]


def test_the_answer_in_the_middle_of_a_long_passage_is_read_with_the_title() -> None:
    filler = "The calm. " * 30
    passage = f"harbour\n{filler}ship sails storm. {filler}"
    [pair] = ModelBackend(Reading(), 16).tokenize("ship storm", [passage])
    of_passage = [token for token, side in zip(pair.ids, pair.type_ids, strict=True) if side]
    [title, answer] = Reading.tokenizer.pieces(["harbour", "ship sails storm ."], 20)
    assert of_passage[:1] == title
    assert any(of_passage[at : at + len(answer)] == answer for at in range(len(of_passage)))
    assert pair.truncated


def test_a_part_that_is_not_looked_at_is_told_although_the_rest_is_read_whole() -> None:
    [pair] = ModelBackend(Reading(), 16).tokenize("ship", ["storm" + " " * READ_CHARACTERS + "ship"])
    assert pair.truncated


@pytest.mark.parametrize(("wanted", "read"), [(0, LIMIT), (16, 16), (1000, LIMIT)])
def test_the_model_says_how_much_of_a_passage_it_reads(wanted: int, read: int) -> None:
    assert ModelBackend(Reading(), wanted).passage_tokens == read


def test_without_a_limit_of_its_own_a_passage_is_read_from_the_start() -> None:
    passages = ["the " * 100 + "ship", "ship"]
    assert ModelBackend(Reading(), 0).tokenize("ship", passages) == Reading.tokenizer.pairs("ship", passages)
