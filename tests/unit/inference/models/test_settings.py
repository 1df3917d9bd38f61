from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.inference.models.settings import InferenceSettings


def test_a_batch_too_small_for_a_text_is_refused_and_none_given_is_the_default() -> None:
    with pytest.raises(ValidationError, match="set 0, or at least 16"):
        InferenceSettings(batch_tokens=5)
    assert InferenceSettings(batch_tokens=0).batch_tokens == 0
