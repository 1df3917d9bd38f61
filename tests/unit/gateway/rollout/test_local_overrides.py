from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from services.experiment.flags import Overrides
from services.gateway.rollout.local_overrides import LocalOverrides, OverridesFile, problems_of
from services.gateway.search.flags import Features

ENVIRONMENT = LocalOverrides(killed=["old"], percentages={"RERANK_ROLLOUT_PERCENTAGE": 5})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "overrides.env"


@pytest.fixture
def file(path: Path) -> OverridesFile:
    return OverridesFile(path, ENVIRONMENT, Features())


def looked(file: OverridesFile) -> tuple[list[str], dict[str, int], list[str]]:
    seen = file.look()
    assert seen is not None
    overrides, problems = seen
    return list(overrides.killed), dict(overrides.percentages), list(problems)


def test_each_share_becomes_a_feature_named_as_its_variable_begins() -> None:
    percentages = {
        "RERANK_ROLLOUT_PERCENTAGE": 25,
        "EXPANSION_ROLLOUT_PERCENTAGE": 0,
        "ENRICHMENT_ROLLOUT_PERCENTAGE": 9,
    }
    rerank, enrichment = LocalOverrides(percentages=percentages).ramps()
    assert (rerank.name, rerank.salt, rerank.treatment_ppm, rerank.control_ppm) == ("rerank", "rerank", 250_000, 0)
    assert rerank.overrides == Overrides(rerank=True)
    assert not rerank.measured
    assert (enrichment.name, enrichment.overrides) == ("enrichment", Overrides(multi_hop=True))


def test_without_a_file_the_environment_holds(file: OverridesFile) -> None:
    assert file.look() is None
    assert list(ENVIRONMENT.killed) == ["old"]


def test_the_file_wins_over_the_environment_and_leaves_it_what_it_does_not_name(
    file: OverridesFile, path: Path
) -> None:
    path.write_text("# incident 12\nROLLOUT_KILL=rerank-v1, expand-v1\n", encoding="utf-8")
    assert looked(file) == (["rerank-v1", "expand-v1"], {"RERANK_ROLLOUT_PERCENTAGE": 5}, [])
    assert file.look() is None  # nothing new
    path.write_text("ROLLOUT_KILL=\nRERANK_ROLLOUT_PERCENTAGE=50 # half\n", encoding="utf-8")
    assert looked(file) == ([], {"RERANK_ROLLOUT_PERCENTAGE": 50}, [])
    path.unlink()
    assert looked(file) == (["old"], {"RERANK_ROLLOUT_PERCENTAGE": 5}, [])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("RERANK_ROLLOUT_PERCENTAGE", "line 2 is not NAME=VALUE"),
        ("RERANK_ROLLOUT_PERCENTAGE=101", "no whole number from 0 to 100"),
        ("RERANK_ROLLOUT_PERCENTAGE=-1", "no whole number from 0 to 100"),
        ("RERANK_ROLLOUT_PERCENT=5", "line 2 names no override; there are ROLLOUT_KILL"),
        ("ROLLOUT_KILL=Rerank_V1", "'Rerank_V1' is no name of a feature"),
        ("\0\0\0", "line 2 is not NAME=VALUE"),
    ],
)
def test_a_mistake_changes_nothing_but_lets_kills_through(
    file: OverridesFile, path: Path, line: str, problem: str
) -> None:
    path.write_text(f"ROLLOUT_KILL=rerank-v1\n{line}\nEXPANSION_ROLLOUT_PERCENTAGE=9\n", encoding="utf-8")
    killed, percentages, problems = looked(file)
    assert killed == ["old", "rerank-v1"]
    assert percentages == {"RERANK_ROLLOUT_PERCENTAGE": 5}
    assert any(problem in told for told in problems)


LINE = "ROLLOUT_KILL=rerank-v1"


@pytest.mark.parametrize(
    "raw",
    [
        codecs.BOM_UTF8 + LINE.encode(),
        f"{LINE}\r\n".encode("utf-16"),
        f"{LINE}\r\n".encode("utf-16-le"),
        f"{LINE}\n".encode("utf-32"),
        *(
            line.encode()
            for line in (
                f"{LINE}\r\n",
                f"{LINE}\r",
                'ROLLOUT_KILL="rerank-v1"',
                "ROLLOUT_KILL='rerank-v1'",
                'ROLLOUT_KILL="rerank-v1";',
                '"ROLLOUT_KILL=rerank-v1"',
                "export ROLLOUT_KILL=rerank-v1",
                "export 'ROLLOUT_KILL=rerank-v1'",
                'declare -x ROLLOUT_KILL="rerank-v1"',
                "set ROLLOUT_KILL=rerank-v1\r\n",
                'set "ROLLOUT_KILL=rerank-v1"\r\n',
                "$env:ROLLOUT_KILL = 'rerank-v1'\r\n",
                "ROLLOUT_KILL: rerank-v1",
                '"ROLLOUT_KILL": "rerank-v1",',
                "ROLLOUT_KILL=\u00a0rerank-v1\u00a0",
                "\u00a0ROLLOUT_KILL\u202f=\u2003rerank-v1",
                "ROLLOUT_KILL=\u201crerank-v1\u201d",
                "\u200bROLLOUT_KILL=\u2060rerank-v1\u200b",
                "ROLLOUT_KILL=rerank\u00ad-v1",
                "rollout_kill=Rerank-V1",
                "ROLLOUT_KILL = rerank-v1 ,",
                "ROLLOUT_KILL=rerank-v1   # incident 12",
                "\tROLLOUT_KILL\t=\trerank-v1\t",
                "ROLLOUT_KILL=rerank-v1\\",
                "\u2028ROLLOUT_KILL=rerank-v1\u2028",
                "ROLLOUT_KILL='rerank-v1'; ",
            )
        ),
    ],
)
def test_a_kill_kills_whatever_editors_and_shells_write_around_it(file: OverridesFile, path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    assert looked(file) == (["rerank-v1"], {"RERANK_ROLLOUT_PERCENTAGE": 5}, [])
    assert file.problem_count == 0


def test_several_names_may_be_quoted_together_or_each(file: OverridesFile, path: Path) -> None:
    path.write_text('export ROLLOUT_KILL="a, \'b\' c;d"\r\nset RERANK_ROLLOUT_PERCENTAGE="50"\r\n', encoding="utf-8")
    assert looked(file) == (["a", "b", "c", "d"], {"RERANK_ROLLOUT_PERCENTAGE": 50}, [])


@pytest.mark.parametrize("raw", [b"ROLLOUT_KIL=a", b"\xff\xfe\xffRO", b"kill a", "ROLLOUT_KILL=ä".encode(), b"{}"])
def test_what_cannot_be_understood_is_counted_until_it_is_mended(file: OverridesFile, path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    assert looked(file)[0] == ["old"]
    assert file.problem_count > 0
    file.look()
    assert file.problem_count > 0
    path.write_text(LINE, encoding="utf-8")
    looked(file)
    assert file.problem_count == 0


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_emptied_file_takes_nothing_back(file: OverridesFile, path: Path, content: str) -> None:
    path.write_text("ROLLOUT_KILL=rerank-v1\n", encoding="utf-8")
    looked(file)
    path.write_text(content, encoding="utf-8")
    killed, _, problems = looked(file)
    assert killed == ["rerank-v1"]
    assert "is empty" in problems[0]


def test_a_file_that_cannot_be_read_takes_nothing_back_and_is_told_once(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = OverridesFile(folder, ENVIRONMENT, Features())
    killed, _, problems = looked(file)
    assert killed == ["old"]
    assert "cannot be read" in problems[0]
    assert file.look() is None


def test_a_share_of_what_everybody_has_is_refused() -> None:
    (problem,) = problems_of(ENVIRONMENT, Features(rerank=True))
    assert "set RERANK_ENABLED=0" in problem
    whole = LocalOverrides(percentages={"RERANK_ROLLOUT_PERCENTAGE": 100})
    assert problems_of(whole, Features(rerank=True)) == []
