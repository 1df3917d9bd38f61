"""Our assembly of ids against what the tokenizers library makes of the same texts by itself."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, processors

from services.inference.models.tokenization import Tokenizer, feed_for

LIMIT = 12
SPECIAL = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3}
TEMPLATES = {
    "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "roberta": ("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]"),
}
texts = st.lists(st.sampled_from("abcdefgh"), max_size=2 * LIMIT).map(" ".join)


def library(template: str) -> Library:
    single, pair = TEMPLATES[template]
    vocabulary = SPECIAL | {letter: number for number, letter in enumerate("abcdefgh", start=len(SPECIAL))}
    tokenizer = Library(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_truncation(LIMIT, strategy="longest_first")
    return tokenizer


@pytest.mark.parametrize("template", TEMPLATES)
@given(text=texts)
def test_a_text_is_tokenized_and_cut_as_the_library_does(template: str, text: str) -> None:
    expected = library(template).encode(text)
    (ours,) = Tokenizer(library(template).to_str(), LIMIT).texts([text])
    assert ours.ids == expected.ids
    assert ours.token_count == len(expected.ids) <= LIMIT
    assert ours.truncated == bool(expected.overflowing)


@pytest.mark.parametrize("template", TEMPLATES)
@given(query=texts, passages=st.lists(texts, max_size=4))
def test_pairs_are_assembled_and_cut_as_the_library_does(template: str, query: str, passages: list[str]) -> None:
    ours = Tokenizer(library(template).to_str(), LIMIT).pairs(query, passages)
    whole = library(template)
    whole.no_truncation()
    for pair, passage in zip(ours, passages, strict=True):
        expected = library(template).encode(query, passage)
        assert (pair.ids, pair.type_ids) == (expected.ids, expected.type_ids)
        assert pair.truncated == (len(whole.encode(query, passage).ids) > LIMIT)


words = st.sampled_from(["a", "b", "unknown" * 30, " " * 700, "\n", "c" * 900, "de"])
long_texts = st.lists(words, min_size=1, max_size=60).map(" ".join)


@given(query=long_texts, texts=st.lists(long_texts, min_size=1, max_size=4))
def test_long_texts_are_read_only_as_far_as_the_window_and_cut_as_the_library_does(
    query: str, texts: list[str]
) -> None:
    tokenizer, whole = Tokenizer(library("bert").to_str(), LIMIT), library("bert")
    whole.no_truncation()
    for ours, text in zip(tokenizer.texts(texts), texts, strict=True):
        assert ours.ids == library("bert").encode(text).ids
        assert ours.truncated == (len(whole.encode(text).ids) > LIMIT)
    for pair, text in zip(tokenizer.pairs(query, texts), texts, strict=True):
        assert pair.ids == library("bert").encode(query, text).ids
        assert pair.truncated == (len(whole.encode(query, text).ids) > LIMIT)


def test_settings_in_the_file_for_truncation_and_padding_do_not_count() -> None:
    tokenizer = library("bert")
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    (ours,) = Tokenizer(tokenizer.to_str(), LIMIT).texts(["a b c d e"])
    assert ours.token_count == 7
    assert not ours.truncated


def test_many_threads_may_tokenize_at_once() -> None:
    tokenizer = Tokenizer(library("bert").to_str(), LIMIT)
    expected = [text.ids for text in tokenizer.texts(["a b c", "d e"])]
    results: list[list[list[int]]] = []
    threads = [
        threading.Thread(target=lambda: results.append([text.ids for text in tokenizer.texts(["a b c", "d e"])]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 8


def test_rows_are_padded_to_the_longest_and_the_padding_is_masked() -> None:
    feed = feed_for([[5, 6, 7], [8]], [[0, 1, 1], [0]], pad_token_id=9)
    assert feed["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert feed["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert feed["token_type_ids"].tolist() == [[0, 1, 1], [0, 0, 0]]
    assert {block.dtype for block in feed.values()} == {np.dtype(np.int64)}
