"""The parts of `bench.quality` that need no server."""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.quality import beir
from bench.quality.asking import Asked
from bench.quality.beir import Dataset
from bench.quality.configs import CONFIGS
from bench.quality.kept import Kept
from bench.quality.measures import NAMES, by_query, interval
from bench.quality.results import load, plot, rows, store, table
from bench.quality.tune import BLENDINGS, ndcg
from services.chassis.errors import StartupError
from sluice_client import Document

# Measures


def test_measures_are_those_that_a_hand_computes():
    qrels = {"q": {"a": 3, "b": 1, "c": 0, "d": 2}}
    found = {name: values["q"] for name, values in by_query(qrels, {"q": ["x", "a", "c", "d"]}).items()}
    gained = 3 / math.log2(3) + 2 / math.log2(5)
    best = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert found == pytest.approx(
        {"ndcg@10": gained / best, "recall@100": 2 / 3, "recall@5": 2 / 3, "mrr@10": 1 / 2, "all_gold@10": 0.0}
    )


def test_all_gold_counts_a_query_only_when_nothing_relevant_is_missing_from_the_first_ten():
    qrels = {query: {"a": 1, "b": 2, "c": 0} for query in ("whole", "late", "part")}
    filler = [f"x{number}" for number in range(8)]
    run = {"whole": [*filler, "b", "a"], "late": [*filler, "b", "y", "a"], "part": ["a"]}
    assert by_query(qrels, run)["all_gold@10"] == {"whole": 1.0, "late": 0.0, "part": 0.0}


def test_what_was_found_for_nothing_counts_as_nothing():
    found = by_query({"q": {"a": 1}}, {"q": []})
    assert {name: values["q"] for name, values in found.items()} == dict.fromkeys(NAMES, 0.0)


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 4), min_size=1).filter(
        lambda grades: any(grades.values())
    ),
    st.permutations("abcdefghijklm"),
)
def test_the_tuner_counts_ndcg_as_the_bench_does(grades, ranking):
    found = by_query({"q": grades}, {"q": ranking})["ndcg@10"]["q"]
    assert ndcg(ranking, grades) == pytest.approx(found, abs=1e-6)


# Intervals


def test_an_interval_is_the_same_every_time_and_holds_the_difference():
    generator = random.Random(1)
    theirs = {str(query): generator.random() for query in range(200)}
    ours = {query: min(1.0, value + 0.1 * generator.random()) for query, value in theirs.items()}
    found = interval(ours, theirs)
    assert found == interval(ours, theirs)
    assert 0 < found.low < found.value < found.high


def test_pairs_that_always_differ_alike_leave_no_doubt():
    theirs = {str(query): query / 100 for query in range(50)}
    ours = {query: value + 0.25 for query, value in theirs.items()}
    found = interval(ours, theirs)
    assert (found.low, found.value, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_the_interval_of_coin_tosses_is_as_wide_as_statistics_says():
    ours = {str(query): float(query % 2) for query in range(400)}
    found = interval(ours, dict.fromkeys(ours, 0.5))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * 0.5 / math.sqrt(400), rel=0.1)


# Collections


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    _write(
        folder / "corpus.jsonl", {"_id": 1, "title": "One", "text": "first\u2028line"}, {"_id": "2", "text": "second"}
    )
    _write(folder / "queries.jsonl", {"_id": "q1", "text": "which?"}, {"_id": "q2", "text": "unanswered"})
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\t1\t2\nq1\t2\t0\nq2\t1\t0\nq9\t1\t1\n")
    return folder


def _write(path, *lines):
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def test_a_collection_holds_its_documents_and_the_queries_that_have_an_answer(folder):
    dataset = beir.load(folder)
    assert dataset.documents == [Document("1", "One", "first\u2028line"), Document("2", "", "second")]
    assert dataset.queries == {"q1": "which?"}
    assert dataset.qrels == {"q1": {"1": 2, "2": 0}}


def test_a_split_has_its_own_queries_and_answers(folder):
    _write(folder / "queries.train.jsonl", {"_id": "t1", "text": "training"})
    (folder / "qrels.train.tsv").write_text("query-id\tcorpus-id\tscore\nt1\t2\t1\n")
    assert beir.load(folder, "train").queries == {"t1": "training"}
    assert beir.load(folder, "train").corpus_digest == beir.load(folder).corpus_digest
    assert beir.load(folder, "train").digest != beir.load(folder).digest


def test_the_layout_with_a_folder_of_answers_is_read_as_well(folder):
    (folder / "qrels").mkdir()
    (folder / "qrels.tsv").rename(folder / "qrels" / "test.tsv")
    assert set(beir.load(folder).queries) == {"q1"}


def test_folders_of_collections_are_looked_into(folder):
    assert beir.find([folder.parent]) == beir.find([folder]) == [folder]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("corpus.jsonl", '{"_id": "1"}\nnot json\n', r"corpus\.jsonl:2: not a JSON object"),
        ("corpus.jsonl", '{"id": "1"}\n', r"corpus\.jsonl:1: not a JSON object with an"),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\nq1\t1\n", r"qrels\.tsv:2: not a query-id"),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\nq7\t1\t1\n", "answers no query"),
    ],
)
def test_a_collection_that_cannot_be_read_is_refused_with_the_place(folder, name, content, complaint):
    (folder / name).write_text(content)
    with pytest.raises(StartupError, match=complaint):
        beir.load(folder)


def test_a_folder_without_collections_is_refused_with_what_is_wanted(tmp_path):
    with pytest.raises(StartupError, match="holds no collection") as refused:
        beir.find([tmp_path / "nowhere"])
    assert "corpus.jsonl, queries.jsonl, qrels.tsv" in refused.value.remedy


def test_a_split_that_does_not_exist_is_refused(folder):
    assert not beir.has_split(folder, "train")
    with pytest.raises(StartupError, match="no answers for the split 'train'"):
        beir.load(folder, "train")


# What is kept of a run


def test_what_was_kept_is_there_in_the_next_run(tmp_path):
    Kept(tmp_path / "new" / "run.jsonl", "key").add(query="a", results=["1"])
    Kept(tmp_path / "new" / "run.jsonl", "key").add(query="b", results=[])
    assert Kept(tmp_path / "new" / "run.jsonl", "key").lines == [
        {"query": "a", "results": ["1"]},
        {"query": "b", "results": []},
    ]


def test_what_another_key_kept_is_of_no_use(tmp_path):
    Kept(tmp_path / "run.jsonl", "key").add(query="a")
    other = Kept(tmp_path / "run.jsonl", "other")
    assert other.lines == []
    assert Kept(tmp_path / "run.jsonl", "key").lines, "to look into a file must not cost what it holds"
    other.add(query="b")
    assert Kept(tmp_path / "run.jsonl", "other").lines == [{"query": "b"}]
    assert Kept(tmp_path / "run.jsonl", "key").lines == []


@settings(max_examples=30)  # each writes a file
@given(cut=st.integers(1, 200))
def test_a_sudden_end_costs_no_more_than_the_line_that_was_being_written(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("kept") / "run.jsonl"
    kept = Kept(path, "key")
    for number in range(5):
        kept.add(number=number)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    after = Kept(path, "key")
    assert after.lines == [{"number": number} for number in range(len(after.lines))]
    assert len(after.lines) >= 5 - cut // len('{"number": 0}\n') - 1
    after.add(number="next")
    assert Kept(path, "key").lines == [*after.lines]


# Rows


@pytest.fixture
def dataset():
    queries = {f"q{number}": "text" for number in range(4)}
    qrels = {query: {query: 1} for query in queries}
    return Dataset("tiny", "test", [Document(query) for query in queries], queries, qrels)


def _asked(*first_found):
    """Answers to as many queries, each with its own document or another one first."""
    run = {f"q{number}": [f"q{number}"] if well else ["x", f"q{number}"] for number, well in enumerate(first_found)}
    return Asked(run, dict.fromkeys(run, 2.5))


def test_a_row_has_the_measures_the_time_and_the_differences(dataset):
    dense, hybrid = rows(dataset, {"dense": _asked(0, 0, 0, 0), "hybrid": _asked(1, 1, 0, 0)})
    assert set(dense) >= {"dataset", "config", *NAMES, "queries", "ms_per_query"}
    assert (dense["mrr@10"], hybrid["mrr@10"], hybrid["queries"], hybrid["ms_per_query"]) == (0.5, 0.75, 4, 2.5)
    assert dense["vs_dense"] is None
    assert hybrid["vs_dense"] == hybrid["vs_without"]
    assert hybrid["vs_dense"]["difference"] == pytest.approx(hybrid["ndcg@10"] - dense["ndcg@10"], abs=1e-3)


def test_there_is_no_difference_to_answers_to_other_queries(dataset):
    found = rows(dataset, {"dense": _asked(1, 1), "hybrid": _asked(1, 1, 1)})
    assert found[1]["vs_dense"] is None


def test_every_configuration_differs_from_the_one_without_its_feature_in_that_alone():
    for name, config in CONFIGS.items():
        if config.without:
            other = CONFIGS[config.without].features
            changed = {field for field in other.__slots__ if getattr(other, field) != getattr(config.features, field)}
            assert changed <= {"expansion", "expansion_strategy"} or len(changed) == 1, name


def test_rows_of_a_partial_run_replace_their_namesakes_and_leave_the_others(dataset, tmp_path):
    path = tmp_path / "quality.json"
    store(rows(dataset, {"all": _asked(0), "dense": _asked(0)}), path)
    store(rows(dataset, {"all": _asked(1), "lexical": _asked(1)}), path)
    assert [(row["config"], row["mrr@10"]) for row in load(path)] == [("dense", 0.5), ("lexical", 1.0), ("all", 1.0)]


def test_table_and_plot_are_made_from_the_rows_alone(dataset, tmp_path):
    pytest.importorskip("matplotlib")
    made = rows(dataset, {name: _asked(1, 0, 1, 1) for name in CONFIGS})
    assert table(made).row_count == len(CONFIGS)
    assert plot(made, tmp_path / "quality.png")
    assert (tmp_path / "quality.png").stat().st_size > 5_000


# Blending


@pytest.mark.parametrize("name", BLENDINGS)
def test_every_blending_orders_everything_once_by_either_side_at_the_ends(name):
    retrieval, logits = [0.5, 0.3, 0.2, 0.1], [-9.0, 2.0, 7.0, -1.0]
    assert BLENDINGS[name](retrieval, logits, 0.0) == [0, 1, 2, 3]
    assert BLENDINGS[name](retrieval, logits, 1.0) == [2, 1, 3, 0]
