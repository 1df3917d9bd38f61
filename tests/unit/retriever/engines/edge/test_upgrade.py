"""Faults of Qdrant Edge 0.9.0, each with what works around it. Where one of these tests fails, that can go."""

import math
import shutil
import uuid

import pytest
import qdrant_edge as edge

DENSE, LEXICAL, LATE = "dense", "lexical", "late"
EVERYTHING = edge.Filter()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "shard"


@pytest.fixture
def shard(folder):
    folder.mkdir()
    config = edge.EdgeConfig(
        vectors={
            DENSE: edge.EdgeVectorParams(2, edge.Distance.Dot),
            LATE: edge.EdgeVectorParams(
                2,
                edge.Distance.Dot,
                multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
                datatype=edge.VectorStorageDatatype.Uint8,
            ),
        },
        sparse_vectors={LEXICAL: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
    )
    return edge.EdgeShard.create(str(folder), config)


def name(number):
    return str(uuid.UUID(int=number))


def point(number, words=(7,), values=None, vector=(0.6, 0.8), **payload):
    lexical = edge.SparseVector(list(words), values or [1.0] * len(words))
    return edge.Point(name(number), {DENSE: list(vector), LEXICAL: lexical}, payload)


def upsert(shard, *points):
    shard.update(edge.UpdateOperation.upsert_points(list(points)))


def count(shard, *conditions):
    return shard.count(edge.CountRequest(exact=True, filter=edge.Filter(must=list(conditions))))


def poison(shard):
    """Write what Edge panics at, now and whenever it replays its log."""
    with pytest.raises(BaseException) as caught:
        upsert(shard, point(1, (1, 2, 3), [1.0, 2.0]))
    assert type(caught.value).__name__ == "PanicException"
    assert not isinstance(caught.value, Exception)


def panics(folder):
    try:
        edge.EdgeShard.load(str(folder))
    except BaseException as error:
        return type(error).__name__ == "PanicException"
    return False


def test_unequal_lengths_poison_the_log_so_batches_are_checked(shard, folder):
    upsert(shard, point(0))
    shard.flush()
    copy = folder.with_name("copy")
    poison(shard)
    shutil.copytree(folder, copy)
    assert panics(copy)
    shutil.rmtree(copy / "wal")
    assert edge.EdgeShard.load(str(copy)).info().points_count == 1


@pytest.mark.parametrize("rows", [[[]], [[1, 2], [3]]])
def test_rows_of_unequal_length_or_none_poison_the_log_so_token_vectors_are_checked(shard, folder, rows):
    with pytest.raises(BaseException) as caught:
        upsert(shard, edge.Point(name(1), {DENSE: [0.6, 0.8], LATE: rows}, {}))
    assert type(caught.value).__name__ == "PanicException"
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    assert panics(copy)


def test_numbers_that_are_no_bytes_are_cut_without_a_word_so_token_vectors_are_checked(shard):
    upsert(shard, edge.Point(name(1), {DENSE: [0.6, 0.8], LATE: [[300, -1], [1.9, 2]]}, {}))
    (record,) = shard.retrieve([name(1)], False, [LATE])
    assert record.vector[LATE] == [[255, 0], [1, 2]]
    query = edge.Query.Nearest([[1.9, 300.0]], LATE)
    assert shard.query(edge.QueryRequest(1, query=query))[0].score == 1 * 1 + 255 * 2


def test_a_flush_after_a_panic_spoils_the_data_so_a_broken_shard_is_neither_flushed_nor_closed(shard, folder):
    upsert(shard, point(0), point(1))
    shard.flush()
    poison(shard)
    shard.flush()
    shard.close()
    shutil.rmtree(folder / "wal")
    assert panics(folder)


def test_a_refused_batch_is_stored_in_part_so_batches_are_checked(shard):
    batch = [point(number, vector=(1.0,) * (3 if number == 5 else 2)) for number in range(10)]
    for _ in range(8):  # in an order of its own each time, and what comes after the bad one is not stored
        with pytest.raises(Exception) as caught:
            upsert(shard, *batch)
        assert type(caught.value) is Exception
    assert 0 < shard.info().points_count < 10


def test_booleans_match_nothing_so_a_copy_of_them_is_text(shard):
    upsert(shard, point(1, open=True))
    assert count(shard, edge.FieldCondition("open", match=edge.MatchValue(True))) == 0
    shard.update(edge.UpdateOperation.create_field_index("open", edge.PayloadSchemaType.Bool))
    assert count(shard, edge.FieldCondition("open", match=edge.MatchValue(True))) == 0


def test_the_idf_counts_what_is_removed_so_searches_name_a_corpus(shard):
    upsert(shard, *(point(number, (7, 8) if number < 5 else (7,)) for number in range(100)))
    shard.update(edge.UpdateOperation.delete_points([name(number) for number in range(50, 100)]))
    query = edge.Query.Nearest(edge.SparseVector([8], [1.0]), LEXICAL)

    def score(params):
        return shard.query(edge.QueryRequest(1, query=query, params=params))[0].score

    assert score(None) == pytest.approx(math.log(101 / 5.5))
    assert score(edge.SearchParams(idf=edge.IdfParams(EVERYTHING))) == pytest.approx(math.log(51 / 5.5))


def test_numbers_that_are_not_finite_are_stored_so_vectors_are_checked(shard):
    upsert(shard, point(1, vector=(math.nan, math.inf)), point(2, (7,), [math.nan]))
    assert shard.info().points_count == 2


def test_whole_numbers_are_compared_as_decimals_so_large_ones_are_stored_in_halves(shard):
    upsert(shard, *(point(number, big=2**60 + number) for number in range(4)))
    assert count(shard, edge.FieldCondition("big", range=edge.RangeFloat(gte=2**60 + 2))) == 4
    assert count(shard, edge.FieldCondition("big", match=edge.MatchValue(2**60 + 2))) == 1


def test_whole_numbers_beyond_64_bits_become_decimals_so_they_are_refused(shard):
    upsert(shard, point(1, big=2**70))
    assert shard.retrieve([name(1)], True, False)[0].payload["big"] == pytest.approx(2**70)


def test_what_is_written_and_not_flushed_is_replayed(shard, folder):
    upsert(shard, point(1))
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    assert edge.EdgeShard.load(str(copy)).info().points_count == 1


def test_some_long_decimals_are_read_back_another_so_a_copy_of_them_is_text(shard):
    decimals = [number / 997 for number in range(1, 500)]
    upsert(shard, *(point(number, share=share) for number, share in enumerate(decimals)))
    records = shard.retrieve([name(number) for number in range(len(decimals))], True, False)
    assert 0 < sum(record.payload["share"] != decimals[record.id.int] for record in records) < len(decimals)


def test_short_decimals_are_read_back_as_they_were(shard):
    decimals = [number / 1000 * 10.0**power for number in range(1, 1000, 7) for power in range(-1, 9)]
    decimals = [float(f"{share:.15g}") for share in decimals]
    upsert(shard, *(point(number, share=share) for number, share in enumerate(decimals)))
    records = shard.retrieve([name(number) for number in range(len(decimals))], True, False)
    assert all(record.payload["share"] == decimals[record.id.int] for record in records)
