import pytest

from sluice_plan import CannotHoldError, Search, Stack, size
from sluice_plan.sizing import DEFAULT_USE
from tests.unit.plan.samples import measurements

ALL = Search(frozenset({"expansion", "rerank"}))
QPS, P99_MS = 2000, 150


@pytest.fixture(scope="module")
def stack():
    return Stack(measurements(), simulated=2000)


@pytest.fixture(scope="module")
def plan(stack):
    return size(stack, ALL, QPS, P99_MS)


def test_a_plan_holds_its_target(plan):
    assert plan.prediction.percentiles[99] <= P99_MS
    assert all(state.use <= DEFAULT_USE + 1e-9 for state in plan.prediction.stages.values())
    assert plan.prediction.capacity >= QPS / DEFAULT_USE * (1 - 1e-9)


def test_a_tenth_fewer_replicas_miss_the_target(stack, plan):
    fewer = {stage: int(state.replicas * 0.9) for stage, state in plan.prediction.stages.items()}
    missed = stack.predict(ALL, QPS, fewer)
    full = [stage for stage, state in missed.stages.items() if state.use > DEFAULT_USE]
    assert full or missed.percentiles[99] > P99_MS


def test_a_tighter_target_takes_no_fewer_processors(stack, plan):
    assert size(stack, ALL, QPS, 1000).cores <= plan.cores


def test_the_cost_of_a_feature_is_the_plan_without_it(stack, plan):
    assert set(plan.without) == {"expansion", "rerank"}
    without = size(stack, Search(frozenset({"expansion"})), QPS, P99_MS)
    assert plan.without["rerank"].cores == without.cores
    assert plan.without["rerank"].cores < plan.cores


def test_autoscalers_watch_tokens_in_model_stages_and_calls_elsewhere(plan):
    stages = plan.prediction.stages
    for stage in ("embedder", "reranker"):
        assert stages[stage].signal.startswith("sluice_queued_tokens")
    for stage in ("gateway", "retriever"):
        assert stages[stage].signal == "grpc_server_in_flight"
    assert stages["expander"].signal == ""
    assert stages["reranker"].signal_target >= 280  # one call is no queue
    assert all(1 <= state.cpu_percent <= 100 for state in stages.values())


def test_a_target_below_the_time_of_one_search_cannot_be_held(stack):
    with pytest.raises(CannotHoldError, match=r"meets no other takes .* the reranker alone takes") as told:
        size(stack, ALL, 10, 70)
    error = told.value
    assert error.stage == "reranker"
    assert error.candidates
    assert stack.alone(Search(ALL.features, error.candidates)).percentiles[99] < 70
    assert stack.alone(Search(ALL.features, error.candidates + 1)).percentiles[99] >= 70


def test_a_target_just_above_the_time_of_one_search_cannot_be_held_by_any_number_of_replicas(stack):
    alone = stack.alone(ALL).percentiles[99]
    with pytest.raises(CannotHoldError, match=r"with every stage idle 95% of the time"):
        size(stack, ALL, 10_000, alone * 1.001)


def test_a_target_that_fewer_candidates_do_not_help_names_none(stack):
    with pytest.raises(CannotHoldError) as told:
        size(stack, ALL, 10, 5)
    assert told.value.candidates is None
