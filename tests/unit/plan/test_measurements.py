import json
from importlib import resources

import pytest

from sluice_plan import Measurements, UnfitMeasurementsError
from tests.unit.plan.samples import measurements


def test_measurements_survive_their_file():
    assert Measurements.from_json(measurements().model_dump_json()) == measurements()


def test_measurements_come_with_the_release_and_say_where_they_were_taken():
    found = Measurements.from_json((resources.files("sluice_plan") / "measured.json").read_bytes())
    assert found.measured.machine
    assert found.measured.at
    assert len(found.searches) == 4
    assert all(cost.wall_ms > 0 for cost in found.searches)


@pytest.mark.parametrize("content", ["", "{", "null", "[]", "{}", '{"format": 2}', '{"format": 1, "measured": {}}'])
def test_anything_but_measurements_is_refused(content):
    with pytest.raises(UnfitMeasurementsError):
        Measurements.from_json(content)


@pytest.mark.parametrize("value", [-1, "soon", None, float("nan"), 1e12])
def test_an_impossible_time_is_refused(value):
    content = measurements().model_dump(mode="json")
    content["searches"][0]["wall_ms"] = value
    with pytest.raises(UnfitMeasurementsError, match=r"wall_ms|JSON"):
        Measurements.from_json(json.dumps(content))


def test_an_unknown_feature_is_refused():
    content = measurements().model_dump(mode="json")
    content["searches"][0]["features"] = ["telepathy"]
    with pytest.raises(UnfitMeasurementsError, match="features"):
        Measurements.from_json(json.dumps(content))


def test_features_that_were_not_measured_are_named():
    found = measurements()
    plain = found.model_copy(update={"searches": found.searches[:1]})
    with pytest.raises(UnfitMeasurementsError, match="rerank"):
        plain.cost({"rerank"})


def test_other_candidates_scale_the_reranker_and_nothing_else():
    few, many = (measurements().cost({"rerank"}, count) for count in (2, 16))
    assert few.stages["reranker"].busy_ms < many.stages["reranker"].busy_ms
    assert few.stages["reranker"].cpu_ms < many.stages["reranker"].cpu_ms
    assert few.stages["embedder"] == many.stages["embedder"]
    assert many.wall_ms - few.wall_ms == pytest.approx(many.stages["reranker"].wall_ms - few.stages["reranker"].wall_ms)
