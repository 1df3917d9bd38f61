import pytest

from services.chassis.errors import StartupError
from services.chassis.settings import load_settings
from services.retriever.settings import RetrieverSettings


def test_operators_defaults_are_kept(monkeypatch):
    for name in ("SIZE", "TIMEOUT", "RETRY_ENABLED", "MAX_RETRIES", "RETRY_DELAY"):
        monkeypatch.delenv(f"QDRANT_POOL_{name}", raising=False)
    settings = load_settings(RetrieverSettings)
    assert (settings.qdrant_pool_size, settings.qdrant_pool_timeout) == (3, 30.0)
    assert (settings.qdrant_pool_retry_enabled, settings.qdrant_pool_max_retries) == (True, 3)
    assert settings.qdrant_pool_retry_delay == 1.0
    assert (settings.qdrant_breaker_failures, settings.qdrant_breaker_reset_seconds) == (5, 60)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("QDRANT_URL", "qdrant:6333"),
        ("QDRANT_POOL_SIZE", "0"),
        ("QDRANT_POOL_RETRY_DELAY", "-1"),
        ("QDRANT_GRPC_PORT", "70000"),
        ("LEXICAL_B", "1.5"),
        ("FUSION_DEPTH", "0"),
    ],
)
def test_a_wrong_value_is_refused_by_name(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartupError, match=variable):
        load_settings(RetrieverSettings)


def test_the_api_key_stays_out_of_logs(monkeypatch):
    monkeypatch.setenv("QDRANT_API_KEY", "s3cr3t")
    assert "s3cr3t" not in repr(load_settings(RetrieverSettings))
