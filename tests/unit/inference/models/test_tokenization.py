"""Our assembly of ids against what the tokenizers library makes of the same texts by itself."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, processors

from services.inference.models.tokenization import LateText, Tokenizer, feed_for

LIMIT = 12
SPECIAL = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "[MASK]": 4, "[unused0]": 5, "[unused1]": 6}
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


def test_what_a_row_does_not_attend_to_is_masked_like_padding() -> None:
    feed = feed_for([[5, 6, 7], [8, 9]], None, pad_token_id=0, attended=[1, 2])
    assert feed["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0]]
    assert feed["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 0]]


def test_a_query_for_late_interaction_is_marked_and_filled_with_masks_that_nothing_attends_to() -> None:
    empty, short, full, long = Tokenizer(library("bert").to_str(), 512).late_queries(["", "a b", "a " * 61, "a " * 62])
    assert empty.ids == [1, 5, 2, *[4] * 29]
    assert short.ids == [1, 5, 7, 8, 2, *[4] * 27]
    assert [row.attended for row in (empty, short, full, long)] == [3, 5, 64, 64]
    assert full.ids == long.ids == [1, 5, *[7] * 61, 2]
    assert [row.truncated for row in (empty, short, full, long)] == [False, False, False, True]
    assert all(row.is_query for row in (empty, short, full, long))


@given(text=texts, most=st.integers(8, 40))
def test_a_passage_for_late_interaction_is_marked_and_cut(text: str, most: int) -> None:
    tokenizer = Tokenizer(library("bert").to_str(), 512)
    (row,) = tokenizer.late_passages([text], most)
    (whole,) = tokenizer.texts([text])
    pieces = whole.ids[1:-1]
    assert row.ids == [1, 6, *pieces[: most - 3], 2]
    assert row.attended == row.token_count <= most
    assert row.truncated == (len(pieces) > most - 3)


def test_the_role_and_the_attention_of_a_row_are_parts_of_its_key() -> None:
    rows = [LateText([1, 5, 2, 4], 3, True, False), LateText([1, 5, 2, 4], 4, True, False)]
    rows.append(LateText([1, 5, 2, 4], 4, False, False))
    assert len({row.key for row in rows}) == 3
    assert rows[0].key == LateText([1, 5, 2, 4], 3, True, True).key


def test_a_tokenizer_without_the_markers_says_so() -> None:
    plain = Library(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(ValueError, match=r"no token \[MASK\]"):
        Tokenizer(plain.to_str(), 16).late_queries(["a"])
