"""Settings that follow the table of flags."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from services.experiment.flags import FLAGS
from services.gateway.search.flags import Features
from services.gateway.settings import GatewaySettings


def test_the_defaults_of_the_settings_are_those_of_the_flags() -> None:
    assert GatewaySettings().default_features() == Features()


def test_every_flag_is_a_variable_with_the_help_of_the_table() -> None:
    fields = GatewaySettings.model_fields
    for flag in FLAGS.values():
        assert fields[flag.variable.lower()].description == flag.help
        if flag.share_variable:
            assert flag.name in (fields[flag.share_variable.lower()].description or "")


@pytest.mark.parametrize("flag", FLAGS.values(), ids=list(FLAGS))
def test_a_value_that_the_table_forbids_is_refused(flag: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(flag.variable, str(flag.most + 1) if flag.kind is int else "sometimes")
    with pytest.raises(ValidationError, match=flag.variable.lower()):
        GatewaySettings()


def test_settings_that_contradict_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSE_ENABLED", "0")
    monkeypatch.setenv("LEXICAL_ENABLED", "0")
    with pytest.raises(ValidationError, match="DENSE_ENABLED and LEXICAL_ENABLED are both off"):
        GatewaySettings()
    monkeypatch.setenv("LEXICAL_ENABLED", "1")
    monkeypatch.setenv("RERANK_ENABLED", "1")
    monkeypatch.setenv("RERANK_ROLLOUT_PERCENTAGE", "5")
    with pytest.raises(ValidationError, match="RERANK_ROLLOUT_PERCENTAGE is below 100"):
        GatewaySettings()
