"""CONTRIBUTING's recipe "Add a stage", applied to a scratch copy with the stage `speller`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.recipes.scratch import ROOT, Scratch

STAGE = Path(__file__).parent / "stage"
GATEWAY = "services/gateway"
MOST_FILES = 14


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    """A copy of the repository with one stage more."""
    copy = Scratch(tmp_path_factory.mktemp("stage"))
    copy.copy(STAGE, {}, ".")
    copy.copy(ROOT / "deploy/k8s/base/expander", {"expander": "speller", "50054": "50059"}, "deploy/k8s/base/speller")
    _list_it(copy)
    _call_it(copy)
    copy.run("ruff", "format", ".")
    copy.run("python", "tools/protos.py")
    copy.run("python", "tools/settings_table.py")
    copy.run("python", "tools/metrics_table.py")
    return copy


def _list_it(copy: Scratch) -> None:
    copy.insert(
        "deploy/stages.py",
        'StageSpec("rollout", 6, "RolloutService", searched=False),\n',
        '    StageSpec("speller", 8, "SpellerService"),\n',
    )
    copy.insert("pyproject.toml", 'expander = ["nltk>=3.10"]\n', "speller = []\n")
    copy.insert(
        "pyproject.toml",
        'name = "Stages know nothing of one another"\ntype = "independence"\nmodules = [\n',
        '    "services.speller",\n',
    )
    copy.insert("deploy/k8s/base/kustomization.yaml", "  - expander\n", "  - speller\n")
    copy.insert(
        "deploy/k8s/base/kustomization.yaml",
        "      - EXPANDER_ADDRESS=dns:///expander:50054\n",
        "      - SPELLER_ADDRESS=dns:///speller:50059\n",
    )
    certificates = copy.folder / "deploy/k8s/components/mtls/certificates.yaml"
    documents = certificates.read_text().split("---\n")
    own = next(document for document in documents if "name: expander\n" in document)
    certificates.write_text("---\n".join([own.replace("expander", "speller"), *documents]))


def _call_it(copy: Scratch) -> None:
    copy.insert(
        "protos/sluice/type/v1/stage.proto",
        "  STAGE_REASON = 6;\n",
        "  // Query to corrected query, by the speller.\n  STAGE_SPELL = 7;\n",
    )
    copy.insert("clients/sluice_client/answers.py", '    RERANK = "rerank"\n', '    SPELL = "spell"\n')
    copy.insert(
        f"{GATEWAY}/settings.py",
        'description="Address of the expander, as `host:port`.")\n',
        '    speller_address: str = Field("", description="Address of the speller; empty calls none.")\n',
    )
    clients = f"{GATEWAY}/rpc/clients.py"
    copy.insert(
        clients,
        "from services.gateway.rpc.retriever_client import RetrieverClient\n",
        "from services.gateway.rpc.speller_client import SpellerClient\n",
    )
    copy.insert(clients, "StageClient = ExpanderClient", " | SpellerClient")
    copy.insert(clients, "    expander: ExpanderClient\n", "    speller: SpellerClient | None\n")
    copy.insert(
        clients,
        "            expander=ExpanderClient(open_channel(settings.expander_address, ExpanderClient.service)),\n",
        "            speller=(\n"
        "                SpellerClient(open_channel(settings.speller_address, SpellerClient.service))\n"
        "                if settings.speller_address\n"
        "                else None\n"
        "            ),\n",
    )
    copy.insert(clients, "Stages(self.expander, embedders, self.retriever, self.reranker", ", self.speller")
    copy.insert(
        clients,
        "            (Stage.RERANK, self.reranker),\n",
        "            *(((Stage.SPELL, self.speller),) if self.speller else ()),\n",
    )
    stages = f"{GATEWAY}/search/stages.py"
    copy.insert(stages, '"""A stage, in the order of the pipeline."""\n\n', "    SPELL = stage_pb2.STAGE_SPELL\n")
    copy.insert(
        stages,
        '        """Make variants as the features say."""\n',
        '''

class Speller(Protocol):
    """Corrects queries."""

    async def correct(self, query: str, *, deadline: float) -> str:
        """Correct a query."""
''',
    )
    pipeline = f"{GATEWAY}/search/pipeline.py"
    copy.insert(pipeline, "from dataclasses import dataclass", ", replace")
    copy.insert(pipeline, "    Retriever,\n    SearchVariant,\n", "    Speller,\n")
    copy.insert(pipeline, "    reranker: Reranker\n", "    speller: Speller | None = None\n")
    copy.insert(pipeline, "    async def rank(self) -> Ranking:\n", "        await self._spell()\n")
    copy.insert(
        pipeline,
        '        return search, fingerprints.pop() if fingerprints else ""\n',
        '''
    async def _spell(self) -> None:
        """Correct the query, if there is a speller and it answers in time."""
        speller = self._stages.speller
        if speller is None:
            self.attempts.skip(Stage.SPELL, "FEATURE_OFF", "no speller is configured")
            return
        attempt = await self.attempts.call(
            Stage.SPELL,
            lambda until: speller.correct(self._question.query, deadline=until),
            Policy.BEST_EFFORT,
            self._budgets.expansion,
            self._budgets.expansion_until(time.monotonic(), self.attempts.last_moment),
        )
        if isinstance(attempt, StageReport):
            self.attempts.report(attempt)
            return
        self._question = replace(self._question, query=attempt.result)
        self.attempts.report(StageReport(Stage.SPELL, Outcome.RAN, seconds=attempt.seconds, item_count=1))
''',
    )


def test_it_touches_at_most_fourteen_files_outside_its_own(
    scratch: Scratch, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [name for name in scratch.changed() if "speller" not in name]
    with capsys.disabled():
        sys.stdout.write(f"\nadd a stage: {len(others)} files outside its own, generated ones included\n")
        sys.stdout.writelines(f"  {name}\n" for name in others)
    assert len(others) <= MOST_FILES


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy", "-p", "services.speller", "-p", "services.gateway"),
        ("lint-imports",),
        ("buf", "lint"),
        ("python", "tools/protos.py", "--check"),
        ("python", "tools/settings_table.py", "--check"),
        ("python", "tools/metrics_table.py", "--check"),
        ("python", "-m", "deploy.grafana", "--check"),
    ],
    ids=" ".join,
)
def test_lint_passes(scratch: Scratch, command: tuple[str, ...]) -> None:
    scratch.run(*command)


@pytest.mark.timeout(600)  # a thousand tests, of which each has its own limit
def test_contract_tests_and_those_of_all_stages_pass(scratch: Scratch) -> None:
    scratch.run(
        *("python", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
        *("tests/unit/speller", "tests/unit/test_stages.py", "tests/unit/test_profiles.py"),
        *("tests/unit/drills/test_k8s_policies.py", "tests/unit/test_metrics_table.py", "tests/unit/test_alerts.py"),
        "tests/contract",
    )
