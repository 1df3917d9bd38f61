"""The graph of stages."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument, Unavailable
from services.gateway.search.flags import Features
from services.gateway.search.order.ranking import Weights
from services.gateway.search.pipeline import Pipeline, Stages
from services.gateway.search.question import Policies, Policy, QueryVector, Question
from services.gateway.search.stages import Answer, Outcome, SearchVariant, Stage, StageReport
from sluice.type.v1 import passage_pb2
from tests.unit.gateway.samples import passage
from tests.unit.gateway.search.world import QUESTION, World, ids, reports, with_features


async def test_the_query_is_embedded_while_it_is_being_expanded() -> None:
    # expand() waits until embed has begun: one after the other, this would time out.
    answer = await World().answer(with_features(multi_hop=True))
    assert [report.outcome for report in answer.reports] == [Outcome.RAN] * 5


async def test_every_variant_is_searched_with_its_own_vector_and_weight() -> None:
    world = World()
    await world.answer()
    assert world.searched == [
        SearchVariant("how do pools work", b"how do pools work", 1.0),
        SearchVariant("another way", b"another way", 0.3),
    ]
    assert world.fingerprint == "f00d"


async def test_the_cross_encoder_reorders_and_ranks_before_are_kept() -> None:
    answer = await World().answer(with_features(rerank_candidate_count=4))
    assert ids(answer) == ["3", "2", "1"]
    assert [result.retrieval_rank for result in answer.results] == [4, 3, 2]
    assert [result.rank for result in answer.results] == [1, 2, 3]


async def test_features_that_are_off_are_reported_as_skipped() -> None:
    world = World()
    world.embedding.set()
    answer = await world.answer(with_features(expansion=False, rerank=False, dense=False))
    skipped = {stage for stage, report in reports(answer).items() if report.outcome is Outcome.SKIPPED}
    assert skipped == {Stage.EXPAND, Stage.EMBED, Stage.HOP, Stage.RERANK}
    assert world.weights == (0.0, 0.67)
    assert world.fingerprint == ""


async def test_an_expander_that_fails_is_left_out() -> None:
    world = World(expand_error=Unavailable("down"))
    answer = await world.answer()
    assert reports(answer)[Stage.EXPAND].outcome is Outcome.FAILED
    assert reports(answer)[Stage.EXPAND].reason == "DEPENDENCY_DOWN"
    assert len(world.searched) == 1


async def test_without_vectors_words_alone_serve_and_the_report_says_so() -> None:
    world = World(embed_error=Unavailable("down"))
    answer = await world.answer()
    assert reports(answer)[Stage.EMBED].outcome is Outcome.FAILED
    assert reports(answer)[Stage.RETRIEVE].outcome is Outcome.DEGRADED
    assert reports(answer)[Stage.RETRIEVE].reason == "LEXICAL_ONLY"
    assert [variant.vector for variant in world.searched] == [b"", b""]
    assert ids(answer)


async def test_without_vectors_and_without_words_there_is_no_answer() -> None:
    with pytest.raises(Unavailable):
        await World(embed_error=Unavailable("down")).answer(with_features(lexical=False))


async def test_variants_that_cannot_be_embedded_are_searched_by_words() -> None:
    world = World(variant_embed_error=Unavailable("busy"))
    answer = await world.answer()
    assert reports(answer)[Stage.EMBED].outcome is Outcome.DEGRADED
    assert [variant.vector for variant in world.searched] == [b"how do pools work", b""]


async def test_a_reranker_that_fails_leaves_the_first_stages_order() -> None:
    answer = await World(rerank_error=Unavailable("down")).answer()
    assert reports(answer)[Stage.RERANK].outcome is Outcome.FAILED
    assert ids(answer) == ["0", "1", "2"]


async def test_nothing_found_is_an_answer_and_nothing_is_reranked() -> None:
    answer = await World(found=[]).answer()
    assert answer.results == []
    assert reports(answer)[Stage.RERANK].reason == "NO_CANDIDATES"


async def test_pseudo_embeddings_are_reported_with_every_answer() -> None:
    report = reports(await World(pseudo=True).answer())[Stage.EMBED]
    assert (report.outcome, report.reason) == (Outcome.DEGRADED, "PSEUDO_EMBEDDINGS")


@pytest.mark.parametrize(
    ("policies", "world"),
    [
        (Policies(expansion=Policy.REQUIRED), World(expand_error=Unavailable("down", reason="NO_EXPANDER"))),
        (Policies(embedding=Policy.REQUIRED), World(embed_error=Unavailable("down", reason="NO_EMBEDDER"))),
        (Policies(rerank=Policy.REQUIRED), World(rerank_error=Unavailable("down", reason="NO_RERANKER"))),
    ],
    ids=["expansion", "embedding", "rerank"],
)
async def test_a_required_stage_fails_the_call_with_its_own_error(policies: Policies, world: World) -> None:
    with pytest.raises(Unavailable, match="down") as caught:
        await world.answer(replace(QUESTION, policies=policies))
    assert caught.value.reason.startswith("NO_")


async def test_a_stage_that_the_search_did_not_come_to_has_a_report_as_well() -> None:
    seen: list[list[StageReport]] = []
    world = World(retrieve_error=Unavailable("down"))
    with pytest.raises(Unavailable):
        await world.pipeline(lambda _, reports: seen.append(list(reports))).search(QUESTION, deadline=math.inf)
    (reports,) = seen
    assert [(report.stage, report.reason) for report in reports[2:]] == [
        (Stage.RETRIEVE, "DEPENDENCY_DOWN"),
        (Stage.HOP, "NOT_REACHED"),
        (Stage.RERANK, "NOT_REACHED"),
    ]
    assert [report.stage for report in reports] == [stage for stage in Stage if stage is not Stage.REASON]


async def test_retrieval_is_always_required() -> None:
    with pytest.raises(FailedPrecondition):
        await World(retrieve_error=FailedPrecondition("other model", reason="MODEL_MISMATCH")).answer()


async def test_a_search_that_a_switch_overtakes_is_made_again_with_the_new_model() -> None:
    world = World(index_model="beef")
    answer = await world.answer()
    assert (world.fingerprint, reports(answer)[Stage.EMBED].outcome) == ("beef", Outcome.RAN)


async def test_a_search_is_made_again_after_each_switch_up_to_a_limit() -> None:
    world = World(switches=4)
    await world.answer()
    assert world.fingerprint == "model 0"
    with pytest.raises(FailedPrecondition, match="other model"):
        await World(switches=1000).answer()


async def test_a_query_and_its_variants_are_never_embedded_by_different_models() -> None:
    world = World(switched_while_expanding=True)
    await world.answer(with_features(expansion=True))
    assert world.fingerprint == "beef"


async def test_pages_follow_one_another_without_gap_or_repeat() -> None:
    pages, offset = [], 0
    while True:
        answer = await World().answer(replace(QUESTION, offset=offset))
        pages += [(result.rank, result.passage.id) for result in answer.results]
        offset += len(answer.results)
        if not answer.more:
            break
    assert [rank for rank, _ in pages] == list(range(1, 9))
    assert len({identity for _, identity in pages}) == 8


async def pages(world: World, question: Question) -> list[Answer]:
    """All pages, each asked for as the token of the one before says."""
    answers = [await world.answer(question)]
    while (offset := answers[-1].following) is not None:
        course = answers[0].course
        answers.append(await world.answer(replace(question, offset=offset, course=course)))
    return answers


DOCUMENTS = [
    passage_pb2.Passage(
        id=f"d{number}" + (f"##{part}" if part > 1 else ""),
        document_id=f"d{number}",
        text=f"kind {number % 150} " + "of text " * 8 if number % 3 == 0 else f"text {number} part {part}",
    )
    for part in (1, 2)
    for number in range(500)
]
COMBINATIONS = [
    {"features": replace(QUESTION.features, rerank=rerank, rerank_candidate_count=50), **others}
    for rerank in (False, True)
    for others in (
        {},
        {"group_by_document": True},
        {"collapse_duplicates": True},
        {"group_by_document": True, "collapse_duplicates": True},
        {"diversity": 0.5, "group_by_document": True},
    )
]


@pytest.mark.parametrize("limit", [37, 100])
@pytest.mark.parametrize("features", COMBINATIONS)
async def test_pages_show_everything_once(features: dict[str, Any], limit: int) -> None:
    shown = await pages(World(found=DOCUMENTS), replace(QUESTION, limit=limit, **features))
    found = [identity for answer in shown for identity in ids(answer)]
    assert len(found) == len(set(found))
    assert [result.rank for answer in shown for result in answer.results] == list(range(1, len(found) + 1))
    whole = await World(found=DOCUMENTS).answer(replace(QUESTION, limit=1000, **features))
    assert found == ids(whole)
    if "collapse_duplicates" not in features:
        key = (lambda one: one.document_id) if "group_by_document" in features else (lambda one: one.id)
        assert len(found) == len({key(one) for one in DOCUMENTS})
    assert all(len(answer.results) == limit for answer in shown[:-1])


async def test_a_page_is_full_though_nearly_all_that_is_found_first_is_the_same() -> None:
    copies = [passage(str(number), "", "the same" if number < 400 else f"other {number}") for number in range(500)]
    question = replace(QUESTION, collapse_duplicates=True, limit=3)
    assert ids(await World(found=copies).answer(replace(question, features=Features()))) == ["0", "400", "401"]


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (World(rerank_error=Unavailable("down")), World()),
        (World(expand_error=Unavailable("down")), World()),
        (World(embed_error=Unavailable("down")), World()),
        (World(variant_embed_error=Unavailable("busy")), World()),
    ],
    ids=["rerank", "expand", "embed", "embed variants"],
)
async def test_a_stage_that_failed_on_the_first_page_is_left_out_of_the_others(first: World, later: World) -> None:
    first.embedding.set()
    later.embedding.set()
    beginning = await first.answer()
    following = replace(QUESTION, offset=3, course=beginning.course)
    answer = await later.answer(following)
    repeated = await first.answer(following)
    assert ids(answer) == ids(repeated)
    assert [variant.vector for variant in later.searched] == [variant.vector for variant in first.searched]


@pytest.mark.parametrize(
    "later",
    [
        World(rerank_error=Unavailable("down")),
        World(expand_error=Unavailable("down")),
        World(embed_error=Unavailable("down")),
        World(variant_embed_error=Unavailable("down")),
    ],
    ids=["rerank", "expand", "embed", "embed variants"],
)
async def test_a_stage_that_ran_for_the_first_page_is_required_for_the_others(later: World) -> None:
    beginning = await World().answer()
    with pytest.raises(Unavailable, match="down"):
        await later.answer(replace(QUESTION, offset=3, course=beginning.course))


async def test_a_later_page_reranks_as_many_as_the_first_however_much_time_there_is() -> None:
    world = World(time_for=4)
    beginning = await world.answer()
    later = World(time_for=2)
    await later.answer(replace(QUESTION, offset=3, course=beginning.course))
    assert len(later.reranked) == len(world.reranked) == 4


@pytest.mark.parametrize(
    ("later", "features", "reason"),
    [
        (World(index_version="docs-v2"), {}, "INDEX_SWITCHED"),
        (World(variants=("a third way",)), {}, "ANSWER_CHANGED"),
        (World(reranker="another"), {}, "ANSWER_CHANGED"),
        (World(), {"rerank": False}, "ANSWER_CHANGED"),
        (World(), {"expansion": False}, "ANSWER_CHANGED"),
    ],
)
async def test_a_page_that_cannot_follow_the_first_is_refused(
    later: World, features: dict[str, Any], reason: str
) -> None:
    beginning = await World().answer()
    with pytest.raises(FailedPrecondition, match="begin again") as refused:
        await later.answer(replace(with_features(**features), offset=3, course=beginning.course))
    assert refused.value.reason == reason


async def test_texts_are_read_only_of_what_is_shown_or_reranked() -> None:
    world = World(found=DOCUMENTS)
    question = replace(QUESTION, offset=90, limit=5, features=Features())
    answer = await world.answer(question)
    assert world.read == ids(answer)
    assert all(result.passage.text for result in answer.results)
    world = World(found=DOCUMENTS)
    await world.answer(replace(QUESTION, limit=5, features=replace(QUESTION.features, rerank_candidate_count=8)))
    assert not world.read


async def test_a_page_ends_early_where_a_message_has_no_room_for_more() -> None:
    long = [passage(str(number), "", "x" * 1000) for number in range(7)]
    world = World(found=long)
    question = replace(QUESTION, limit=5, features=Features())
    pipeline = Pipeline(Stages(world, world, world, world), Weights(1, 1, 1, 1), world.budgets, page_bytes=2500)
    world.embedding.set()
    shown, offset = [], 0
    while offset is not None:
        answer = await pipeline.search(replace(question, offset=offset), deadline=time.monotonic() + 30)
        shown.append(ids(answer))
        offset = answer.following
    assert shown == [["0", "1"], ["2", "3"], ["4", "5"], ["6"]]


async def test_a_result_that_is_larger_than_a_page_is_shown_alone() -> None:
    world = World(found=[passage(str(number), "", "x" * 5000) for number in range(2)])
    pipeline = Pipeline(Stages(world, world, world, world), Weights(1, 1, 1, 1), world.budgets, page_bytes=2500)
    answer = await pipeline.search(replace(QUESTION, features=Features()), deadline=time.monotonic() + 30)
    assert (ids(answer), answer.following) == (["0"], 1)


async def test_a_passage_that_is_deleted_while_it_is_read_leaves_its_place_empty() -> None:
    world = World(found=DOCUMENTS, deleted={"d91"})
    answer = await world.answer(replace(QUESTION, offset=90, limit=3, features=Features()))
    assert (ids(answer), answer.following) == (["d90", "d92"], 93)


async def test_texts_that_do_not_fit_a_window_are_counted_in_the_report() -> None:
    report = reports(await World().answer())[Stage.RERANK]
    assert (report.outcome, report.truncated_count) == (Outcome.RAN, 3)


async def test_near_duplicates_are_collapsed_on_request_after_reranking_and_pages_stay_full() -> None:
    copies = [passage(f"{kind}{number}", "", f"what is said of {kind}") for number in range(3) for kind in "abc"]
    question = replace(QUESTION, limit=2, features=replace(QUESTION.features, rerank_candidate_count=9))
    assert ids(await World(found=copies).answer(question)) == ["c2", "b2"]
    question = replace(question, collapse_duplicates=True)
    first = await World(found=copies).answer(question)
    last = await World(found=copies).answer(replace(question, offset=2))
    assert [(ids(page), page.more) for page in (first, last)] == [(["c2", "b2"], True), (["a2"], False)]
    assert [result.duplicate_count for result in [*first.results, *last.results]] == [2, 2, 2]
    assert last.results[0].rank == 3


async def test_nothing_is_collapsed_unless_it_is_asked_for() -> None:
    copies = [passage(str(number), "", "the same") for number in range(3)]
    answer = await World(found=copies).answer()
    assert [result.duplicate_count for result in answer.results] == [0, 0, 0]


async def test_the_reranker_reads_title_and_text() -> None:
    world = World()
    await world.answer()
    assert world.reranked[0] == "title 0\ntext 0"


async def test_optional_stages_that_do_not_fit_the_deadline_are_skipped() -> None:
    world = World(deadline_seconds=0.5)
    world.embedding.set()
    now = time.monotonic()
    for pace in (world.budgets.expansion, world.budgets.embedding, world.budgets.hop, world.budgets.rerank_token):
        pace.observe(now, 60.0)
    answer = await world.answer(with_features(multi_hop=True))
    skipped = {stage: report.reason for stage, report in reports(answer).items() if report.outcome is Outcome.SKIPPED}
    assert skipped == dict.fromkeys((Stage.EXPAND, Stage.EMBED, Stage.HOP, Stage.RERANK), "NO_TIME")
    assert ids(answer) == ["0", "1", "2"]


async def test_a_required_stage_is_asked_however_little_time_there_is() -> None:
    world = World(deadline_seconds=0.5)
    world.budgets.rerank_token.observe(time.monotonic(), 60.0)
    required = replace(QUESTION, policies=Policies(rerank=Policy.REQUIRED))
    assert reports(await world.answer(required))[Stage.RERANK].outcome is Outcome.RAN


async def test_the_scores_that_are_done_by_the_deadline_are_used_and_the_report_says_of_how_many() -> None:
    answer = await World(time_for=3).answer()
    report = reports(answer)[Stage.RERANK]
    assert (report.outcome, report.reason, report.item_count) == (Outcome.DEGRADED, "FEWER_CANDIDATES", 3)
    assert report.detail == "the deadline left time for 3 of 8 candidates"
    assert ids(answer) == ["2", "1", "0"]


async def test_a_required_reranking_is_all_or_nothing() -> None:
    required = replace(QUESTION, policies=Policies(rerank=Policy.REQUIRED))
    assert reports(await World(time_for=3).answer(required))[Stage.RERANK].item_count == 8


async def test_what_is_like_a_document_is_searched_without_a_text_and_the_reports_say_so() -> None:
    world = World()
    answer = await world.answer(replace(QUESTION, query="", like_document_id="5"))
    assert (world.searched, world.like, world.fingerprint) == ([], "5", "")
    assert [report.reason for report in answer.reports] == ["NO_QUERY", "NO_QUERY", "", "NO_QUERY", "NO_QUERY"]
    assert len(answer.results) == 3
    assert not answer.idle_stages


async def test_likeness_goes_with_a_query_that_all_stages_read() -> None:
    world = World()
    answer = await world.answer(replace(with_features(multi_hop=True), like_document_id="5"))
    assert (len(world.searched), world.like) == (2, "5")
    assert all(report.outcome is Outcome.RAN for report in answer.reports)


CALLERS = QueryVector(b"four", "mini")


async def test_a_caller_s_vector_stands_for_the_embedding() -> None:
    world = World(embed_error=Unavailable("not to be asked"))
    answer = await world.answer(replace(QUESTION, query="", vector=CALLERS))
    assert world.searched == [SearchVariant("", b"four", 1.0)]
    assert world.model_asked == "mini"
    assert reports(answer)[Stage.EMBED].reason == "CALLER_VECTOR"


async def test_a_query_beside_a_caller_s_vector_is_searched_by_words() -> None:
    world = World()
    world.embedding.set()
    await world.answer(replace(QUESTION, vector=CALLERS))
    own, other = world.searched
    assert own == SearchVariant(QUESTION.query, b"four", 1.0)
    assert (other.text, other.vector) == ("another way", b"")
    assert world.reranked


async def test_a_vector_alone_is_refused_where_the_search_by_vectors_is_off() -> None:
    lexical = replace(with_features(dense=False), vector=CALLERS)
    world = World()
    world.embedding.set()
    await world.answer(lexical)
    assert (world.searched[0].vector, world.model_asked) == (b"", "")
    with pytest.raises(InvalidArgument) as refused:
        await world.answer(replace(lexical, query=""))
    assert refused.value.field == "vector"


async def test_no_other_try_is_made_for_a_vector_of_another_model() -> None:
    world = World(retrieve_error=FailedPrecondition("other model", reason="MODEL_MISMATCH"))
    with pytest.raises(FailedPrecondition, match="other model"):
        await world.answer(replace(QUESTION, query="", vector=CALLERS))


async def test_the_best_hundred_are_diversified_once_and_the_others_keep_their_order() -> None:
    world = World(found=[passage(str(number)) for number in range(150)])
    question = replace(QUESTION, features=Features(expansion=False, rerank=False), diversity=0.4, limit=60)
    first = await world.answer(question)
    assert ids(first) == [str(number) for number in range(99, 39, -1)]
    assert world.diversified == [([str(number) for number in range(100)], pytest.approx(0.4))]
    assert first.results[0].score == pytest.approx(1 / 100)
    second = await world.answer(replace(question, offset=60, course=first.course))
    assert ids(second) == [str(number) for number in [*range(39, -1, -1), *range(100, 120)]]


async def test_diversity_is_looked_for_after_reranking_and_before_grouping() -> None:
    world = World()
    answer = await world.answer(replace(QUESTION, diversity=1.0, limit=8))
    ranked = world.diversified[0][0]
    assert ranked == [str(number) for number in range(7, -1, -1)]  # the cross-encoder likes the last best
    assert ids(answer) == ranked[::-1]


async def test_sentences_that_answer_are_named_on_request() -> None:
    world = World()
    answer = await world.answer(replace(QUESTION, highlights=True))
    assert world.marked[0] == QUESTION.query
    assert [(one.start, one.end) for one in answer.results[0].to_proto().highlights] == [(0, len("text 7"))]
    assert not (await world.answer()).results[0].highlights
    assert (
        not (await world.answer(replace(QUESTION, query="", like_document_id="5", highlights=True)))
        .results[0]
        .highlights
    )


async def test_an_answer_without_its_highlights_is_reported() -> None:
    world = World(mark_error=Unavailable("the retriever is away"))
    answer = await world.answer(replace(QUESTION, highlights=True))
    report = reports(answer)[Stage.RETRIEVE]
    assert (report.outcome, report.reason) == (Outcome.DEGRADED, "NO_HIGHLIGHTS")
    assert len(answer.results) == 3
