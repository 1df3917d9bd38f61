from __future__ import annotations

from services.speller.correction import corrected


def test_frequent_misspellings_are_corrected() -> None:
    assert corrected("recieve teh parcel") == "receive the parcel"
