import copy
import json
from importlib import resources

import pytest

from sluice_plan import Measurements, UnfitMeasurementsError
from tests.unit.plan.samples import measurements


def test_measurements_outlive_their_file():
    kept = json.loads(json.dumps(measurements().as_json()))
    assert Measurements.from_json(kept).as_json() == kept


def test_measurements_come_with_the_release_and_say_what_they_were_taken_on():
    text = (resources.files("sluice_plan") / "measured.json").read_text(encoding="utf-8")
    found = Measurements.from_json(json.loads(text))
    assert found.machine
    assert found.measured_at
    assert len(found.searches) == 4
    assert all(cost.wall_seconds > 0 for cost in found.searches.values())


@pytest.mark.parametrize("content", [None, [], {}, {"format": 2}, {"format": 1}, {"format": 1, "measured": {}}])
def test_what_are_no_measurements_is_refused(content):
    with pytest.raises(UnfitMeasurementsError):
        Measurements.from_json(content)


@pytest.mark.parametrize("value", [-1, "soon", None, float("nan"), 1e12])
def test_a_time_that_nothing_takes_is_refused(value):
    content = copy.deepcopy(measurements().as_json())
    content["searches"][0]["wall_ms"] = value
    with pytest.raises(UnfitMeasurementsError):
        Measurements.from_json(content)


def test_a_stage_or_feature_of_another_world_is_refused():
    content = measurements().as_json()
    content["searches"][0]["features"] = ["telepathy"]
    with pytest.raises(UnfitMeasurementsError, match="telepathy"):
        Measurements.from_json(content)


def test_features_that_were_not_measured_are_named():
    content = measurements().as_json()
    content["searches"] = [cost for cost in content["searches"] if not cost["features"]]
    with pytest.raises(UnfitMeasurementsError, match="rerank"):
        Measurements.from_json(content).cost(frozenset({"rerank"}))


def test_other_candidates_scale_the_reranker_and_nothing_else():
    few, many = (measurements().cost(frozenset({"rerank"}), count) for count in (2, 16))
    assert few.stages["reranker"].busy_seconds < many.stages["reranker"].busy_seconds
    assert few.stages["reranker"].cpu_seconds < many.stages["reranker"].cpu_seconds
    assert few.stages["embedder"] == many.stages["embedder"]
    assert many.wall_seconds - few.wall_seconds == pytest.approx(
        many.stages["reranker"].wall_seconds - few.stages["reranker"].wall_seconds
    )
