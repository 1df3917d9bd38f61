from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_cli.calls import Problem
from sluice_cli.plan_files import parse_share
from sluice_cli.rollout import plans
from sluice_client import EVERYBODY_PPM, Criteria, Features, Plan, PlanStep, flag_values

WHOLE = plans.PLANS.template_text("weekly")
TOML = """
name = "night"
shadow = "5 %"
criteria = {error_rate_max = "2 %", p95_max = "3.5 s", quality_score_min = 0.6}
steps = [{share = "0.5 %", dwell = "90 min"}, {share = "100%", dwell = "2 d", automatic = true}]

[[features]]
name = "rerank"
overrides = {rerank = true, rerank_candidate_count = 50}
# end of plan
"""


def problem(raw: bytes | str, source: str = "plan.yaml") -> str:
    """The problem that is printed for a wrong plan."""
    with pytest.raises(Problem) as caught:
        plans.PLANS.parse(raw.encode() if isinstance(raw, str) else raw, source)
    assert "nothing was changed" in caught.value.remedy
    return caught.value.message


def changed(old: str, new: str) -> str:
    """The whole plan with one thing changed."""
    assert old in WHOLE
    return WHOLE.replace(old, new, 1)


def test_both_runbooks_come_as_templates() -> None:
    assert plans.PLANS.template_names() == ["ramp", "weekly"]
    ramp = plans.PLANS.read("ramp")
    plan = ramp.plan(ramp.features[0])
    assert [(step.treatment_ppm, step.dwell) for step in plan.steps] == [
        (100_000, timedelta(hours=2)),
        (500_000, timedelta(hours=24)),
        (1_000_000, timedelta(hours=48)),
    ]
    criteria = plan.criteria
    assert (criteria.error_rate_max, criteria.p95_increase_max, criteria.p99_increase_max) == (0.02, 0.3, 0.4)
    assert (criteria.p95_max, criteria.p99_max) == (timedelta(seconds=3.5), timedelta(seconds=5))
    assert criteria.quality_score_min == 0.6
    (enrichment,) = ramp.features
    assert flag_values(enrichment.overrides) == {
        "multi_hop": True, "max_hops": 1, "rerank": True, "rerank_candidate_count": 50
    }  # fmt: skip
    weekly = plans.PLANS.read("weekly")
    assert [feature.name for feature in weekly.features] == ["baseline", "rerank", "expansion", "optimised"]
    for feature in weekly.features:
        dwell = sum((step.dwell for step in weekly.plan(feature).steps), timedelta())
        assert timedelta(days=6) <= dwell <= timedelta(days=7)
    assert flag_values(weekly.features[3].overrides)["expansion_strategy"] == "multi_query"


def test_a_plan_may_be_toml() -> None:
    file = plans.PLANS.parse(TOML.encode(), "night.toml")
    assert file.plan(file.features[0]) == Plan(
        name="night",
        steps=[PlanStep(5_000, timedelta(minutes=90)), PlanStep(1_000_000, timedelta(days=2), automatic=True)],
        criteria=Criteria(error_rate_max=0.02, p95_max=timedelta(seconds=3.5), quality_score_min=0.6),
        shadow_ppm=50_000,
    )
    assert file.features[0].overrides == Features(rerank=True, rerank_candidate_count=50)


def test_a_template_and_a_file_are_told_apart_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(WHOLE)
    assert plans.PLANS.read(str(path)) == plans.PLANS.read("weekly")
    with pytest.raises(Problem, match="no template 'monthly'") as caught:
        plans.PLANS.read("monthly")
    assert "ramp, weekly" in caught.value.remedy
    with pytest.raises(Problem, match="No such file"):
        plans.PLANS.read(str(tmp_path / "gone.yaml"))
    with pytest.raises(Problem, match="cannot be read"):
        plans.PLANS.read(str(tmp_path) + "/")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("share: 10 %", "share: 10", "steps[0].share: write it as a percentage with its sign, as in '10 %', not '10'"),
        ("share: 10 %", "share: 110 %", "line 24: steps[0].share: 110 % is more than all users"),
        ("share: 10 %", "share: 0 %", "steps[0].share: Input should be greater than 0"),
        ("share: 10 %", "share: 50 %", "steps[1].share must be more than that of the step before"),
        ("dwell: 1 d", "dwell: 1", "steps[0].dwell: write it as a time with its unit"),
        ("dwell: 1 d", "dwell: 500 d", "steps[0].dwell: is longer than 366 d"),
        ("dwell: 1 d", "dwel: 1 d", "steps[0].dwel: is not known here"),
        ("automatic: false", "automatic: perhaps", "steps[0].automatic"),
        ("error_rate_max: 2 %", "error_rate_max: 200 %", "criteria.error_rate_max: Input should be less than"),
        ("error_rate_max", "error_rate", "criteria.error_rate: is not known here"),
        ("quality_score_min: 0.6", "quality_score_min: nan", "criteria.quality_score_min"),
        ("p95_max: 3.5 s", "p95_max: 0 s", "criteria.p95_max: must be above 0 and at most 1 h"),
        ("holdout: 0 %", "holdout: 90 %", "holdout"),
        ("rerank: true, rerank_candidate_count: 50", "rerank: maybe", "features[1].overrides.rerank"),
        ("rerank_candidate_count: 50", "rerank_candidate_count: 5000", "features[1].overrides.rerank_candidate_count"),
        ("{dense: true, lexical: true}", "{dense: false, lexical: false}", "dense and lexical are both off"),
        ("{dense: true, lexical: true}", "{}", "features[0].overrides: switches nothing"),
        ("expansion_strategy: synonyms", "expansion_strategy: prayer", "features[2].overrides.expansion_strategy"),
        ("name: rerank", "name: baseline", "features: baseline appears more than once"),
        ("name: rerank", "name: Re rank", "features[1].name: must be 1 to 64 lower case letters"),
        ("name: rerank", "name: -rerank", "features[1].name: must be"),
        ("# end of plan", "# the end", "its last line is not `# end of plan`"),
        ("name: weekly", "name: weekly\nname: weekly", "comes twice"),
        ("name: weekly", "name: &w weekly\ndescription: *w", "references"),
        ("name: weekly", "name: !!python/object/apply:os.system [true]", "name"),
        ("name: weekly", "<<: {name: weekly}", "<<: is not known here"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(old: str, new: str, said: str) -> None:
    assert said in problem(changed(old, new))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "it is empty"),
        (b" \n\n", "it is empty"),
        (b"# end of plan\n", "no table of names and values"),
        (b"- a\n# end of plan", "no table of names and values"),
        (b"\xff\xfe\x00\n# end of plan", "byte 1 is not UTF-8"),
        (b"a: \x00\n# end of plan", "special characters are not allowed"),
        (b"{" * 20_000 + b"\n# end of plan", "nested too deeply"),
        (b"[" * 60_000 + b"\n# end of plan", "nested too deeply"),
        ("".join(f"{' ' * depth}a:\n" for depth in range(200)).encode() + b"# end of plan", "nested too deeply"),
        (b"a: [\n# end of plan", "line"),
        (b"? [a]\n: 1\n# end of plan", "line 1"),
        (b"x" * 70_000, "larger than 64 KiB"),
        (b"---\na: 1\n---\nb: 1\n# end of plan", "document"),
    ],
)
def test_what_is_no_plan_at_all_is_told(raw: bytes, said: str) -> None:
    assert said in problem(raw)


@pytest.mark.parametrize("source", ["plan.yaml", "plan.toml"])
def test_a_plan_that_is_cut_off_anywhere_is_no_plan(source: str) -> None:
    whole = (WHOLE if source == "plan.yaml" else TOML).rstrip()
    for end in range(len(whole)):
        problem(whole[:end], source)
    plans.PLANS.parse(whole.encode(), source)


def mutated(raw: bytes, chance: random.Random) -> bytes:
    """A plan after a few accidents: bytes changed, lost or doubled, lines moved, numbers blown up."""
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(raw) + 1)
        end = min(len(raw), place + chance.choice([1, 1, 4, 30]))
        lines = raw.splitlines(keepends=True)
        match chance.randrange(6):
            case 0:
                raw = raw[:place] + bytes([chance.randrange(256)]) + raw[end:]
            case 1:
                raw = raw[:place] + raw[end:]
            case 2:
                raw = raw[:place] + raw[place:end] * chance.choice([2, 50]) + raw[end:]
            case 3:
                chance.shuffle(lines)
                raw = b"".join(lines)
            case 4:
                wild = [b"9" * 5000, b"1e999", b"-1 %", b"null", b"{}", b"[[]]", b"2026-99-99", b"\xe2\x80\xae", b"*a"]
                raw = raw[:place] + chance.choice(wild) + raw[end:]
            case _:
                raw = raw.replace(chance.choice([b"%", b":", b"share", b"steps", b"true"]), b"", chance.randint(1, 9))
    return raw + b"\n# end of plan\n" if chance.random() < 0.8 else raw


@pytest.mark.parametrize("source", ["plan.yaml", "plan.toml"])
def test_a_mutilated_plan_is_refused_or_still_a_plan_and_never_anything_else(source: str) -> None:
    chance = random.Random(f"sluice {source}")
    whole = (WHOLE if source == "plan.yaml" else TOML).encode()
    refused = 0
    for _ in range(400):
        try:
            file = plans.PLANS.parse(mutated(whole, chance), source)
        except Problem:
            refused += 1
            continue
        check(file)
    assert refused > 200


def check(file: plans.PlanFile) -> None:
    """Check the conditions of every plan that is accepted."""
    for feature in file.features:
        plan = file.plan(feature)
        shares = [step.treatment_ppm for step in plan.steps]
        assert shares == sorted(set(shares))
        assert 0 < shares[0] <= shares[-1] <= EVERYBODY_PPM
        assert all(timedelta() <= step.dwell <= timedelta(days=366) for step in plan.steps)
        assert plan.criteria != Criteria()
        assert feature.overrides != Features()


@settings(max_examples=100)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_refused_in_words(raw: bytes) -> None:
    for source in ("a.yaml", "a.toml"):
        assert len(problem(raw + b"\n# end of plan", source)) < 2000


@given(st.floats(0.0001, 100).map(lambda percent: round(percent, 4)), st.sampled_from(["", " "]))
def test_every_share_to_a_ten_thousandth_of_a_percent_is_exact(percent: float, gap: str) -> None:
    assert parse_share(f"{percent:.4f}{gap}%") == round(percent * 10_000)


@pytest.mark.parametrize("text", ["10", "ten %", "-1 %", "101 %", "1e1 %", "", "%", "10 %%", "\u0661\u0660 %"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(Problem):
        parse_share(text)
