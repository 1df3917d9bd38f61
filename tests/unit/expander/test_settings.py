from __future__ import annotations

from pathlib import Path

import pytest

from services.chassis.errors import StartupError
from services.chassis.settings import load_settings
from services.expander.expansion import Strategy
from services.expander.settings import ExpanderSettings


def test_variables_are_read_by_the_names_that_operators_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPANSION_STRATEGY", "multi_query")
    monkeypatch.setenv("EXPANSION_MAX_VARIANTS", "3")
    monkeypatch.setenv("WORDNET_DIR", "/usr/share/wordnet")
    settings = load_settings(ExpanderSettings)
    assert settings.expansion_strategy == Strategy.MULTI_QUERY
    assert settings.expansion_max_variants == 3
    assert settings.wordnet_dir == Path("/usr/share/wordnet")


def test_an_empty_wordnet_dir_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORDNET_DIR", "")
    assert load_settings(ExpanderSettings).wordnet_dir is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("EXPANSION_STRATEGY", "thesaurus"),
        ("EXPANSION_MAX_VARIANTS", "0"),
        ("EXPANSION_MAX_VARIANTS", "17"),
        ("SYNONYM_WEIGHT", "1"),
        ("TEMPLATE_WEIGHT", "0"),
    ],
)
def test_wrong_values_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartupError, match=variable):
        load_settings(ExpanderSettings)
