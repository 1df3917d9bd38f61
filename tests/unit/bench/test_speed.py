"""The parts of `bench.speed` that need no server."""

import json

import pytest

from bench.speed.load import OK, Report, Sample
from bench.speed.raw import CUTS, Cut
from bench.speed.results import BARS, Bar, Row, compared, load, plot, store
from bench.speed.workload import LENGTHS, SHORT_LENGTHS, Workload, tokenizer


@pytest.fixture(scope="module")
def mixed():
    return Workload(7).mixed(512)


def test_texts_have_the_lengths_that_they_claim(mixed):
    encodings = tokenizer().encode_batch([text.text for text in mixed])
    assert [len(encoding.ids) for encoding in encodings] == [text.token_count for text in mixed]


def test_mixed_texts_reach_from_the_shortest_to_the_longest(mixed):
    lengths = [text.token_count for text in mixed]
    assert LENGTHS[0] <= min(lengths) < 8
    assert 200 < max(lengths) <= LENGTHS[1]


def test_every_part_of_a_workload_has_the_same_spread_of_lengths(mixed):
    parts = [sorted(text.token_count for text in mixed[start : start + 128]) for start in range(0, 512, 128)]
    means = [sum(part) / len(part) for part in parts]
    assert max(means) < 1.1 * min(means)


def test_queries_are_short():
    assert {text.token_count for text in Workload(1).short(256)} == set(range(SHORT_LENGTHS[0], SHORT_LENGTHS[1] + 1))


def test_no_text_comes_twice():
    workload = Workload(1)
    texts = [text.text for text in workload.short(2000) + workload.mixed(2000)]
    assert len(set(texts)) == len(texts)


def test_a_seed_always_gives_the_same_texts():
    assert Workload(3).questions(2) == Workload(3).questions(2) != Workload(4).questions(2)


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_batches_hold_every_row_once_and_keep_to_the_cut(cut):
    lengths = sorted([5, 5, 9, 30, 31, 64, 200, 256, 256])
    batches = [lengths[batch] for batch in cut.batches(lengths)]
    assert [length for batch in batches for length in batch] == lengths
    for batch in batches:
        assert len(batch) == 1 or (len(batch) <= cut.rows and len(batch) * max(batch) <= cut.padded_tokens)


def test_a_cut_by_rows_fills_its_batches():
    assert [len(range(9)[batch]) for batch in Cut(rows=4).batches([1] * 9)] == [4, 4, 1]


def test_a_rate_counts_only_what_was_answered_well_in_the_window():
    samples = [
        Sample(1.0, 0.1, 2, OK),
        Sample(2.0, 0.1, 3, OK),
        Sample(2.5, 0.1, 5, "UNAVAILABLE"),
        Sample(3.5, 0.1, 7, OK),
    ]
    report = Report(started=0.0, ended=4.0, samples=samples)
    assert report.rate() == 12 / 4
    assert report.rate(1.5, 3.5) == 10 / 2
    assert report.milliseconds("UNAVAILABLE") == [pytest.approx(100)]


def test_a_row_of_rounds_is_the_median_of_each_side_with_the_spread_of_the_rounds():
    row = compared("x", [(10.0, 5.0), (12.0, 5.0), (30.0, 6.0)], "texts/s").as_json()
    assert {key: row[key] for key in ("name", "ours", "reference", "ratio", "unit")} == {
        "name": "x",
        "ours": 12.0,
        "reference": 5.0,
        "ratio": 2.4,
        "unit": "texts/s",
    }
    assert row["spread"] == [2.0, 5.0]


@pytest.mark.parametrize(
    ("name", "ours", "reference", "ok"),
    [
        ("embed/throughput_vs_raw@c32", 90.0, 100.0, True),
        ("embed/throughput_vs_raw@c32", 89.0, 100.0, False),
        ("embed/short_query_overhead_ms@c1", 3.5, 2.1, True),
        ("embed/interactive_p99_under_bulk", 50.0, 10.0, False),
        ("embed/rejected_within_ms", 19.0, 20.0, True),
        ("embed/throughput_vs_infinity@c1", None, None, False),
    ],
)
def test_each_bar_looks_at_its_own_quantity(name, ours, reference, ok):
    assert Row(name, ours, reference, "").as_json()["ok"] is ok


def test_a_bar_says_what_it_wants():
    assert str(Bar("ratio", ">=", 0.9)) == "ratio >= 0.9"


def test_rows_of_a_partial_run_replace_their_namesakes_and_leave_the_others(tmp_path):
    path = tmp_path / "speed.json"
    store([Row("embed/rejected_within_ms", 30.0, 20.0, "ms"), Row("embed/other", 1.0, 2.0, "")], path)
    store(
        [Row("embed/rejected_within_ms", 10.0, 20.0, "ms"), Row("embed/throughput_vs_raw@c32 (int8)", 1, 1, "")], path
    )
    assert [(row["name"], row["ours"]) for row in load(path)] == [
        ("embed/throughput_vs_raw@c32 (int8)", 1),
        ("embed/rejected_within_ms", 10.0),
        ("embed/other", 1.0),
    ]
    assert json.loads(path.read_text()) == load(path)


def test_there_are_no_rows_before_the_first_run(tmp_path):
    assert load(tmp_path / "speed.json") == []


def test_the_plot_is_drawn_from_the_rows_alone(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [compared(name, [(2.0, 1.0)], "texts/s", idle={"p50": 1.0}).as_json() for name in BARS]
    assert plot(rows, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 10_000
