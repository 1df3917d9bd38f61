"""Profiles set every variable, to values that the stages accept, as the design's table says."""

import pytest

from deploy.local import profiles
from deploy.local.profiles import load_profile, profile_names
from services.chassis.errors import StartupError
from services.chassis.settings import load_settings
from services.experiment.flags import FLAGS
from tests.registry import STAGES

# Set by `make up` or a cluster, not by a profile.
PLACES = {
    *(stage.spec.address_variable for stage in STAGES if stage.name != "gateway"),
    "GRPC_HOST",
    "GRPC_PORT",
    "METRICS_PORT",
    "METRICS_TLS",
    "HEALTH_PORT",
    "GRPC_TOKEN_PORT",
    "GRPC_TLS_CERTIFICATE",
    "GRPC_TLS_KEY",
    "GRPC_TLS_AUTHORITY",
    "AUTH",
    "AUTH_CALLERS",
    "AUTH_POLICY",
    "AUTH_JWKS",
    "AUTH_ISSUER",
    "AUTH_AUDIENCE",
    "EMBEDDER_ADDITIONAL_ADDRESSES",
    "REASONER_LLM_URL",
    "REASONER_LLM_KEY",
    "ROLLOUT_GATEWAY_NAME",
    "ROLLOUT_SNAPSHOT_PATH",
    "ROLLOUT_OVERRIDES_PATH",
    "QDRANT_URL",
    "QDRANT_GRPC_PORT",
    "QDRANT_API_KEY",
    "QDRANT_CA_FILE",
    "QDRANT_PATH",
    "QDRANT_SNAPSHOT_PATH",
    "ROLLOUT_DATABASE_URL",
    "ROLLOUT_DATABASE_CA_FILE",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "LOG_QUERY_KEY",
    "FEEDBACK_KEYS",
    "AUDIT_DIR",
    "AUDIT_KEY",
    "QUOTA_FILE",
    "QUOTA_STORE",
    "MODEL_DIR",
    "MODEL_CACHE_DIR",
    "MODELS_LOCK",
    "MODELS_KEY",
    "WORDNET_DIR",
}

# The table of the design, row by row: values as they are written there.
BASELINE = {
    "EMBEDDING_MODEL": "all-MiniLM-L6-v2",
    "EMBEDDING_DEVICE": "cpu",
    "RERANK_ENABLED": "0",
    "RERANK_DEVICE": "cpu",
    "QUERY_EXPANSION_ENABLED": "0",
    "QDRANT_POOL_SIZE": "3",
}
RERANK = {**BASELINE, "RERANK_ENABLED": "1", "RERANK_TOP_K": "50"}
EXPANSION = {
    **RERANK,
    "QUERY_EXPANSION_ENABLED": "1",
    "EXPANSION_STRATEGY": "synonyms",
    "EXPANSION_MAX_VARIANTS": "5",
}
PRODUCTION = {
    "EMBEDDING_MODEL": "all-mpnet-base-v2",
    "EMBEDDING_DEVICE": "cuda",
    "RERANK_ENABLED": "1",
    "RERANK_MODEL": "ms-marco-electra-base",
    "RERANK_DEVICE": "cuda",
    "RERANK_TOP_K": "50",
    "QUERY_EXPANSION_ENABLED": "1",
    "EXPANSION_STRATEGY": "multi_query",
    "EXPANSION_MAX_VARIANTS": "5",
    "QDRANT_POOL_SIZE": "10",
    "QDRANT_POOL_TIMEOUT": "30.0",
    "QDRANT_POOL_MAX_RETRIES": "3",
    "QDRANT_POOL_RETRY_DELAY": "1.0",
}
TABLE = {
    "development": {
        "EMBEDDING_MODEL": "all-MiniLM-L6-v2",
        "EMBEDDING_DEVICE": "cpu",
        "RERANK_ENABLED": "0",
        "QUERY_EXPANSION_ENABLED": "0",
        "QDRANT_POOL_SIZE": "1",
        "QDRANT_POOL_MAX_RETRIES": "3",
    },
    "secured": {"EMBEDDING_MODEL": "all-MiniLM-L6-v2", "RERANK_ENABLED": "0", "QDRANT_POOL_SIZE": "1"},
    "staging": {
        "EMBEDDING_MODEL": "all-MiniLM-L6-v2",
        "EMBEDDING_DEVICE": "cpu",
        "RERANK_ENABLED": "1",
        "RERANK_MODEL": "ms-marco-MiniLM-L-6-v2",
        "RERANK_TOP_K": "30",
        "QUERY_EXPANSION_ENABLED": "1",
        "EXPANSION_STRATEGY": "synonyms",
        "QDRANT_POOL_SIZE": "3",
    },
    "production": PRODUCTION,
    "baseline": BASELINE,
    "rerank": RERANK,
    "expansion": EXPANSION,
    "optimised": PRODUCTION,
    "enrichment": {**RERANK, "ENABLE_MULTI_HOP": "1", "MAX_HOPS": "1", "ENABLE_REASONING": "1"},
}


def variables_of_all_stages():
    return {field.upper() for stage in STAGES for field in stage.spec.settings().model_fields}


def test_the_profiles_are_those_of_the_design():
    assert set(profile_names()) == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_a_profile_sets_every_variable_but_places_and_flags_at_their_defaults(name):
    flags = {flag.variable for flag in FLAGS.values()}
    missing = variables_of_all_stages() - PLACES - set(load_profile(name))
    assert missing <= flags, "the defaults of flags are in services/gateway/search/flags.py; others belong to base.env"
    assert set(load_profile(name)) <= variables_of_all_stages() - PLACES


def test_every_place_is_a_variable():
    assert variables_of_all_stages() >= PLACES


@pytest.mark.parametrize("name", TABLE)
def test_a_profile_says_what_the_table_says(name):
    profile = load_profile(name)
    assert {variable: profile[variable] for variable in TABLE[name]} == TABLE[name]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
@pytest.mark.parametrize("name", TABLE)
def test_every_stage_takes_every_profile(name, stage, monkeypatch):
    profile = load_profile(name)
    for variable, value in profile.items():
        monkeypatch.setenv(variable, value)
    settings = load_settings(stage.spec.settings())
    # What was written is what was read: no value is silently rounded, clipped or ignored.
    for field in type(settings).model_fields:
        if field.upper() in profile:
            assert _read(getattr(settings, field), profile[field.upper()]), field


def _read(value, written):
    if isinstance(value, bool):
        return value is (written == "1")
    return float(written) == value if isinstance(value, (int, float)) else getattr(value, "value", value) == written


def test_optimised_is_production():
    assert load_profile("optimised") == load_profile("production")


def test_the_rollout_switches_one_thing_on_at_a_time():
    assert _changed("baseline", "rerank") == {"RERANK_ENABLED"}
    assert _changed("rerank", "expansion") == {"QUERY_EXPANSION_ENABLED"}
    assert _changed("rerank", "enrichment") == {"ENABLE_MULTI_HOP", "ENABLE_REASONING"}


def _changed(before, after):
    return {variable for variable, _ in load_profile(before).items() ^ load_profile(after).items()}


def test_an_unknown_profile_is_refused_with_those_that_exist():
    with pytest.raises(StartupError, match="no profile 'prod'") as refused:
        load_profile("prod")
    assert "production" in refused.value.remedy


@pytest.mark.parametrize("line", ["RERANK_TOP_K", "RERANK TOP K=5", "export RERANK_TOP_K=5", "LOG_LEVEL=DEBUG"])
def test_a_line_that_is_no_new_variable_is_refused_with_its_number(line, tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "PROFILES", tmp_path)
    (tmp_path / "base.env").write_text("LOG_LEVEL=INFO\n")
    (tmp_path / "odd.env").write_text(f"# comment\n\nLOG_LEVEL=INFO\n{line}\n")
    with pytest.raises(StartupError, match=r"odd\.env:4: "):
        load_profile("odd")


def test_a_variable_that_the_base_lacks_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "PROFILES", tmp_path)
    (tmp_path / "base.env").write_text("LOG_LEVEL=INFO\n")
    (tmp_path / "odd.env").write_text("LOG_LEVLE=DEBUG\n")
    with pytest.raises(StartupError, match="LOG_LEVLE"):
        load_profile("odd")


@pytest.mark.parametrize("name", TABLE)
def test_a_profile_holds_only_what_differs_from_the_base(name):
    lines = (profiles.PROFILES / f"{name}.env").read_text().splitlines()
    base = (profiles.PROFILES / "base.env").read_text().splitlines()
    assert not {line for line in lines if "=" in line and not line.startswith("#")} & set(base)
