"""Parts that derive from deploy/stages.py, and parts that have to agree with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.docker import compose
from deploy.docker.images import IMAGES
from deploy.stages import STAGES
from sluice_cli.calibrate import METRICS_PORTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("spec", STAGES, ids=lambda spec: spec.name)
def test_a_stage_listens_on_its_well_known_port_by_default(spec):
    assert spec.settings().model_fields["grpc_port"].default == spec.grpc_port


@pytest.mark.parametrize("spec", STAGES, ids=lambda spec: spec.name)
def test_a_stage_is_a_package_and_its_service_is_in_its_proto(spec):
    assert (ROOT / "services" / spec.name / "__main__.py").exists()
    protos = (ROOT / "protos" / "sluice" / spec.name / "v1").glob("*.proto")
    assert any(f"service {spec.service} {{" in proto.read_text() for proto in protos)


def test_no_two_stages_share_a_port():
    assert len({spec.place for spec in STAGES}) == len(STAGES)


def test_every_stage_has_an_image():
    assert {image.service for image in IMAGES} == {spec.name for spec in STAGES} | {"client"}


def test_the_compose_stack_runs_and_scrapes_every_stage():
    by_hand = set(compose.yaml.safe_load(compose.COMPOSE.read_text())["services"])
    derived = compose.stages()["services"]
    assert {spec.name for spec in STAGES} <= by_hand | set(derived)
    assert derived["gateway"]["environment"]["EXPANDER_ADDRESS"] == "dns:///expander:50054"
    assert derived["embedder"]["image"].endswith("-${EMBEDDER_IMAGE_MODEL:-all-MiniLM-L6-v2}")
    assert [scrape["job_name"] for scrape in compose.scrapes()["scrape_configs"]] == [spec.name for spec in STAGES]


def test_the_compose_stack_asks_every_stage_and_what_keeps_data_for_its_health():
    by_hand = compose.yaml.safe_load(compose.COMPOSE.read_text())["services"]
    derived = compose.stages()["services"]
    for spec in STAGES:
        assert derived[spec.name]["healthcheck"]["test"][-2:] == ["services.chassis.health", str(spec.grpc_port)]
    assert all("healthcheck" in by_hand[name] for name in ("qdrant", "prometheus", "grafana"))


def test_the_compose_stack_keeps_data_and_snapshots_on_volumes_of_their_own():
    written = compose.yaml.safe_load(compose.COMPOSE.read_text())
    [[data, _]] = [entry.split(":") for entry in written["services"]["qdrant"]["volumes"]]
    retriever = written["services"]["retriever"]
    [[snapshots, place]] = [entry.split(":") for entry in retriever["volumes"]]
    assert (retriever["environment"]["QDRANT_SNAPSHOT_PATH"], snapshots) == (place, "snapshots")
    assert data != snapshots
    kept = written["services"]["gateway"]["environment"]["ROLLOUT_SNAPSHOT_PATH"]
    assert any(kept.startswith(entry.split(":")[1]) for entry in written["services"]["gateway"]["volumes"])


def test_the_planning_command_asks_for_metrics_where_make_up_serves_them():
    ports = {spec.name: spec.metrics_port for spec in STAGES}
    assert dict(METRICS_PORTS) == {stage: ports[stage] for stage in METRICS_PORTS}
