from __future__ import annotations

from pathlib import Path

from services.inference.models.known_items import KnownItem, known_items

SOURCE = '''
def close_all(pool):
    """Closes every connection that the pool still holds.

    Connections that are in use are waited for, %s, and then closed like all the others, one after the other.
    """
'''


def test_a_docstring_is_a_question_and_the_passage_that_answers_it(tmp_path: Path) -> None:
    (tmp_path / "pool.py").write_text(SOURCE % "at most a minute")
    (tmp_path / "broken.py").write_text("def :")
    assert known_items(tmp_path) == [
        KnownItem(
            "Closes every connection that the pool still holds.",
            "Connections that are in use are waited for, at most a minute, and then closed like all the others, "
            "one after the other.",
        )
    ]


def test_no_question_is_asked_twice(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SOURCE % "a minute")
    (tmp_path / "b.py").write_text(SOURCE % "an hour")
    (item,) = known_items(tmp_path)
    assert "a minute" in item.passage


def test_this_python_carries_enough_for_calibration_and_gate() -> None:
    assert len(known_items()) > 1000
