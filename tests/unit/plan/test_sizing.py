import math

import pytest

from sluice_plan import Layout, Network, Search, Target, UnreachableError, size
from tests.unit.plan.samples import measurements

ALL = frozenset({"expansion", "rerank"})


@pytest.fixture(scope="module")
def network():
    return Network(measurements())


@pytest.fixture(scope="module")
def plan(network):
    return size(network, Search(ALL), Target(qps=2000, p99_seconds=0.15))


def test_a_plan_holds_its_target(plan):
    assert plan.prediction.times.percentile(99) <= 0.15
    assert all(state.use <= plan.target.use + 1e-9 for state in plan.prediction.stages.values())
    assert plan.prediction.capacity >= 2000 / plan.target.use * (1 - 1e-9)


def test_no_stage_of_a_plan_has_a_replica_too_many(network, plan):
    for pods in plan.pods:
        fewer = {other.stage: other.replicas - (other.stage == pods.stage) for other in plan.pods}
        prediction = network.predict(plan.search, 2000, Layout(fewer))
        too_late = prediction.times.percentile(99) > 0.15
        too_full = prediction.stages[pods.stage].use > plan.target.use
        assert too_late or too_full, pods


def test_a_tighter_target_takes_no_fewer_processors(network, plan):
    roomy = size(network, Search(ALL), Target(qps=2000, p99_seconds=1.0))
    assert roomy.cores <= plan.cores


def test_features_cost_what_the_plan_without_them_saves(network, plan):
    costs = {cost.feature: cost for cost in plan.features}
    without = size(network, Search(frozenset({"expansion"})), plan.target)
    assert costs["rerank"].cores == pytest.approx(plan.cores - without.cores)
    assert costs["rerank"].mean_seconds > costs["expansion"].mean_seconds > 0


def test_autoscalers_aim_at_tokens_in_model_stages_at_calls_elsewhere_and_fall_back_on_processors(plan):
    pods = {one.stage: one for one in plan.pods}
    for stage in ("embedder", "reranker"):
        assert pods[stage].signal.startswith("sluice_queued_tokens")
    for stage in ("gateway", "retriever"):
        assert pods[stage].signal == "grpc_server_in_flight"
    assert pods["expander"].signal == ""
    assert pods["reranker"].signal_target >= 280  # one call is no queue
    assert all(1 <= one.cpu_target <= 100 for one in plan.pods)


def test_what_no_number_of_replicas_can_do_is_said_with_what_would(network):
    with pytest.raises(UnreachableError) as told:
        size(network, Search(ALL), Target(qps=10, p99_seconds=0.07))
    error = told.value
    assert error.slowest == "reranker"
    assert error.candidates is not None
    assert network.alone(Search(ALL, error.candidates)).times.percentile(99) < 0.07
    assert error.cores is not None
    assert network.predict(Search(ALL), 1e-6, Layout(cores={"reranker": error.cores})).times.percentile(99) < 0.07


def test_what_nothing_can_do_is_said_too(network):
    with pytest.raises(UnreachableError) as told:
        size(network, Search(ALL), Target(qps=10, p99_seconds=0.005))
    assert told.value.candidates is None
    assert told.value.cores is None
    assert math.isfinite(told.value.alone.times.percentile(99))
