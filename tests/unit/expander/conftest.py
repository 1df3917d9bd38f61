"""The real WordNet, once for all tests of the expander."""

from __future__ import annotations

import pytest

from services.chassis.errors import StartupError
from services.expander.lexicon import WordNetLexicon, locate_wordnet


@pytest.fixture(scope="session")
def wordnet() -> WordNetLexicon:
    try:
        return WordNetLexicon(locate_wordnet())
    except StartupError as error:
        pytest.fail(f"{error.message}. {error.remedy}")
