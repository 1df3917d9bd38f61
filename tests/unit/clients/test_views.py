from __future__ import annotations

import io
from dataclasses import replace
from datetime import timedelta

from rich.console import Console, RenderableType

from sluice_cli.search.answer import answer_view, rank_change
from sluice_client import Answer, Chunk, Highlight, Outcome, Passage, Result, Scores, Stage, StageReport, features

_PASSAGE = Passage(
    id="argparse.md",
    document_id="argparse.md",
    title="argparse",
    text="Parses [bold]command[/bold] line options.\n\nReally \x1b[31mwell\x07.",
    metadata={"year": 2011, "tags": ["cli", "stdlib"]},
)
_RESULT = Result(
    passage=_PASSAGE,
    score=0.87654,
    rank=1,
    scores=Scores(retrieval=0.03125, retrieval_rank=4, rerank=5.5),
)
_ANSWER = Answer(
    results=[
        _RESULT,
        replace(_RESULT, passage=replace(_PASSAGE, id="getopt", title=""), rank=2, scores=Scores(0.02, 2, None)),
    ],
    stages=[
        StageReport(
            Stage.EXPAND, Outcome.DEGRADED, "OTHER_STRATEGY_SERVED", "no WordNet", timedelta(milliseconds=3.1), "", 3
        ),
        StageReport(Stage.RERANK, Outcome.RAN, "", "", timedelta(seconds=0.1204), "ms-marco-MiniLM-L-12-v2", 50),
    ],
    next_page_token="",
    features=features(
        dense=True,
        lexical=True,
        expansion=True,
        expansion_strategy="synonyms",
        max_variant_count=5,
        rerank=True,
        rerank_candidate_count=50,
    ),
    collection="documents",
    index_version="documents@1",
    request_id="abc",
)


def _shown(view: RenderableType, width: int = 120) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False).print(view)
    return stream.getvalue()


def test_only_scores_of_stages_that_looked_at_a_result_have_a_column() -> None:
    shown = _shown(answer_view(_ANSWER, explain=True))
    assert "cross-encoder" in shown
    assert "late" not in shown
    compared = replace(_RESULT, scores=Scores(0.5, 1, None, late=0.71234, relevance=0.625))
    shown = _shown(answer_view(replace(_ANSWER, results=[compared]), explain=True))
    assert "late" in shown
    assert "0.712" in shown
    assert "0.625" in shown
    assert "cross-encoder" not in shown


def test_an_answer_shows_rank_title_score_metadata_and_text() -> None:
    shown = _shown(answer_view(_ANSWER, explain=False))
    assert "1. argparse  0.877" in shown
    assert "argparse.md  tags=['cli', 'stdlib']  year=2011" in shown
    assert "2. getopt" in shown
    assert "Stages" not in shown


def test_sentences_that_answer_are_marked_with_an_ellipsis_for_what_is_left_out() -> None:
    passage = replace(_PASSAGE, text="One.\n\nTwo [bold]2[/bold]. Three.  Four. Five.")
    ends = [
        (passage.text.index(word), passage.text.index(word) + len(word)) for word in ("Two [bold]2[/bold].", "Four.")
    ]
    marked = replace(_RESULT, passage=passage, highlights=[Highlight(start, end, 0.5) for start, end in ends])
    shown = _shown(answer_view(replace(_ANSWER, results=[marked]), explain=False))
    assert "… Two [bold]2[/bold]. … Four. …" in shown
    both = replace(marked, highlights=[Highlight(0, 4, 0.5), marked.highlights[0]])
    assert "One. Two [bold]2[/bold]. …" in _shown(answer_view(replace(_ANSWER, results=[both]), explain=False))


def test_a_chunk_says_which_part_of_its_document_it_is() -> None:
    passage = replace(_PASSAGE, id="argparse.md##2", chunk=Chunk(2, 5, 900, 1800))
    result = replace(_RESULT, passage=passage)
    assert "argparse.md##2  chunk 2 of 5" in _shown(answer_view(replace(_ANSWER, results=[result]), explain=False))


def test_text_of_documents_neither_styles_nor_steers_the_terminal() -> None:
    shown = _shown(answer_view(_ANSWER, explain=True))
    assert "[bold]command[/bold]" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_an_explained_answer_shows_scores_rank_changes_and_stages() -> None:
    shown = _shown(answer_view(_ANSWER, explain=True))
    for part in ("▲3 from 4", "0.8765", "0.0312", "5.500", "degraded", "3.1", "OTHER_STRATEGY_SERVED: no WordNet"):
        assert part in shown
    assert "ms-marco-MiniLM-L-12-v2" in shown
    assert "on: dense, lexical, expansion (synonyms, 5), rerank (50) · index: documents (documents@1)" in shown


def test_nothing_is_lost_on_a_narrow_terminal() -> None:
    shown = "".join(_shown(answer_view(_ANSWER, explain=True), width=60).split())
    assert "OTHER_STRATEGY_SERVED:noWordNet" in shown
    assert "ms-marco-MiniLM-L-12-v2" in shown


def test_an_empty_answer_says_so() -> None:
    assert "Nothing was found." in _shown(answer_view(replace(_ANSWER, results=[]), explain=True))


def test_a_rank_change_shows_direction_distance_and_origin() -> None:
    assert [rank_change(before, now).plain for before, now in ((4, 1), (1, 3), (2, 2))] == [
        "▲3 from 4",
        "▼2 from 1",
        "=",
    ]


def test_a_result_that_stands_for_others_says_for_how_many() -> None:
    results = [
        replace(_RESULT, duplicate_count=2),
        replace(_RESULT, rank=2, duplicate_count=1),
        replace(_RESULT, rank=3),
    ]
    shown = _shown(answer_view(replace(_ANSWER, results=results), explain=False))
    assert shown.count("near-duplicate") == 2
    assert "and 2 near-duplicates" in shown
