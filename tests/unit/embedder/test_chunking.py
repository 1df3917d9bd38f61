from __future__ import annotations

import asyncio
import gc
import re
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from pydoc_data.topics import topics

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from services.embedder.chunking import Chunk, cut
from services.inference.models.tokenization import Tokenizer, Word

texts = st.text(st.sampled_from("ab.!? \n\té。"), max_size=300)
cuts = st.tuples(st.integers(8, 40), st.integers(0, 50))


def words_of(text: str) -> list[Word]:
    """Runs of letters, a token a letter, and single marks."""
    return [
        Word(found.start(), found.end(), found.end() - found.start()) for found in re.finditer(r"[abé]+|[^\sabé]", text)
    ]


def tokens_of(part: str) -> int:
    return sum(len(word) for word in part.split())


def tokens_in(text: str, start: int, end: int) -> int:
    return tokens_of(text[start:end])


@given(text=texts, sizes=cuts)
@example(text="", sizes=(8, 0))
@example(text="a" * 100, sizes=(8, 3))
@example(text="aaa " * 50 + "b" * 39 + " a", sizes=(40, 15))
def test_chunks_cover_the_text_overlap_as_asked_and_never_exceed_their_room(text: str, sizes: tuple[int, int]) -> None:
    room, overlap = sizes
    chunks = cut(text, words_of(text), room=room, overlap=overlap, count=tokens_of)
    assert (chunks[0].start, chunks[-1].end) == (0, len(text))
    for before, after in pairwise(chunks):
        assert before.start < after.start <= before.end < after.end
        assert tokens_in(text, after.start, before.end) <= overlap
    for chunk in chunks:
        assert tokens_in(text, chunk.start, chunk.end) <= chunk.token_count or chunk.token_count % room == 0
        assert tokens_in(text, chunk.start, chunk.end) <= room
        assert chunk.token_count <= room


def parts(text: str, room: int, overlap: int = 0) -> list[str]:
    return [
        text[chunk.start : chunk.end]
        for chunk in cut(text, words_of(text), room=room, overlap=overlap, count=tokens_of)
    ]


def test_a_text_with_room_enough_is_one_chunk() -> None:
    assert cut("ab ab", words_of("ab ab"), room=4, overlap=1, count=tokens_of) == [Chunk(0, 5, 4)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aa aa. aa\n\naa bb. bb bb bb", ["aa aa. aa\n\n", "aa bb. bb bb bb"]),
        ("aa aa aa aa. bb bb bb bb", ["aa aa aa aa. ", "bb bb bb bb"]),
        ('aa aa aa a." bb bb bb bb', ['aa aa aa a." ', "bb bb bb bb"]),
        ("aa aa aa aa\nbb bb bb bb", ["aa aa aa aa\n", "bb bb bb bb"]),
        ("aa aa.aa aa.bb bb bb bb", ["aa aa.aa ", "aa.bb bb bb bb"]),
    ],
    ids=["paragraph", "sentence", "sentence in quotes", "line", "word"],
)
def test_a_cut_lies_where_a_reader_would_pause(text: str, expected: list[str]) -> None:
    assert parts(text, 11) == expected


def test_a_cut_leaves_more_than_half_of_the_room_used() -> None:
    assert parts("a. " + "bb " * 9, 10)[0] == "a. bb bb bb bb "


def test_the_overlap_begins_with_a_sentence_where_one_begins() -> None:
    assert parts("aa aa aa. a a a. bb bb bb bb bb", 12, overlap=5)[1] == "a a a. bb bb bb bb "


def test_a_word_longer_than_a_chunk_is_cut_anywhere() -> None:
    assert "".join(parts("ab" * 20, 9)) == "ab" * 20


_HARD = {
    "blanks": ("{} x", " "), "lines": ("a{}x", "\n"), "blank lines": ("a{}x", " \n"), "tabs": ("a.{}x", "\t"),
    "closing": ("a.{} x", '"'), "stops": ("a{} x", "."), "full-width": ("a{}x", "。"), "one word": ("{}", "a"),
    "short words": ("{}", "a "), "marks": ("{}", "! "), "sentences": ("{}", "a. "), "no-break": ("a{}x", "\u00a0"),
    "ideographic": ("。{}x", "\u3000"), "separators": ("a{}x", "\x1c"), "mixed": ("a{}x", ' \n"'),
}  # fmt: skip


@pytest.mark.parametrize("name", _HARD)
def test_time_grows_with_the_length_of_a_text_whatever_it_is(name: str) -> None:
    form, repeated = _HARD[name]

    def seconds(length: int) -> float:
        text = form.format(repeated * (length // len(repeated)))
        words = words_of(text)
        times = []
        for _ in range(3):
            began = time.process_time()
            cut(text, words, room=64, overlap=8, count=tokens_of)
            times.append(time.process_time() - began)
        return statistics.median(times)

    # Eight times the length: a square would take 64 times as long.
    assert seconds(320_000) <= 24 * max(seconds(40_000), 0.005)


async def test_the_event_loop_goes_on_while_blanks_are_cut() -> None:
    text = f"a{' ' * 1_000_000}b." * 4
    longest = 0.0
    cutting = asyncio.create_task(asyncio.to_thread(cut, text, words_of(text), room=8, overlap=2, count=tokens_of))
    while not cutting.done():
        began = time.monotonic()
        await asyncio.sleep(0)
        longest = max(longest, time.monotonic() - began)
    await cutting
    assert longest < 0.25


def test_no_object_is_kept_for_a_word() -> None:
    text = "a " * 50_000
    kept = []

    def counted() -> Iterator[Word]:
        before = len(gc.get_objects())
        for found in re.finditer("a", text):
            yield Word(found.start(), found.end(), 1)
        kept.append(len(gc.get_objects()) - before)

    cut(text, counted(), room=64, overlap=8, count=tokens_of)
    assert kept[0] < 1_000


ENGLISH = "\n\n".join(list(topics.values())[:12])
JAPANESE = "".join(
    f"第{number}章では東京の天気と交通について{'とても' * (number % 5)}詳しく説明する。次に京都へ行く、そして戻る"
    + ("。" if number % 3 else "")
    for number in range(300)
)
TEXTS = {
    "English": ENGLISH,
    "Japanese": JAPANESE,
    "Japanese without marks": JAPANESE.replace("。", "").replace("、", ""),
    "both": ENGLISH[:3000] + JAPANESE[:3000] + ENGLISH[3000:6000],
    "emoji": "😀👩‍👩‍👧 ok " * 400,
    "blanks": "a" + " " * 3000 + "b" + "\n" * 3000 + "c" + "\u3000" * 3000 + "d",
    "code": "x_1=foo(bar[0],baz)->{'k':1};" * 300,
}


@pytest.fixture(scope="module", params=["byte-level BPE", "SentencePiece", "WordPiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "byte-level BPE":
        made = tokenizers.Tokenizer(tokenizers.models.BPE())
        made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, special_tokens=["<s>"])
    elif request.param == "SentencePiece":
        made = tokenizers.Tokenizer(tokenizers.models.Unigram())
        made.normalizer = tokenizers.normalizers.NFKC()
        made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        trainer = tokenizers.trainers.UnigramTrainer(
            vocab_size=2000, special_tokens=["<s>", "<unk>"], unk_token="<unk>", show_progress=False
        )
    else:
        made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
        made.normalizer = tokenizers.normalizers.BertNormalizer()
        made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=2000, special_tokens=["[UNK]"], show_progress=False)
    made.train_from_iterator([ENGLISH, *re.findall(r"[^。]+。?", JAPANESE)], trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    return Tokenizer(made.to_str(), 512)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(("room", "overlap"), [(128, 16), (30, 7), (64, 0)])
def test_each_chunk_fits_when_it_is_tokenized_by_itself(
    tokenizer: Tokenizer, name: str, room: int, overlap: int
) -> None:
    text = TEXTS[name]
    chunks = cut(text, tokenizer.words(text), room=room, overlap=overlap, count=tokenizer.count)
    assert (chunks[0].start, chunks[-1].end) == (0, len(text))
    for chunk in chunks:
        (read,) = tokenizer.texts([text[chunk.start : chunk.end]])
        assert read.token_count == chunk.token_count <= room
    for before, after in pairwise(chunks):
        assert before.start < after.start <= before.end < after.end
        assert tokenizer.count(text[after.start : before.end]) <= overlap
    if name in ("English", "Japanese", "Japanese without marks"):
        assert sum(chunk.token_count for chunk in chunks) / len(chunks) > 0.6 * room
        if overlap:
            assert sum(after.start < before.end for before, after in pairwise(chunks)) > 0.3 * len(chunks)
