"""The profile `secured`: the command with a key, by TLS, against real processes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from deploy.local import STAGES, LocalStack
from deploy.local.secured import ROLES, Secured

pytestmark = pytest.mark.asyncio(loop_scope="function")

QUICK = {"EMBEDDING_MODEL": "", "EXPANSION_STRATEGY": "multi_query", "ROLLOUT_GATEWAY_NAME": "one"}
REFUSED = "PERMISSION_DENIED"


async def sluice(stack: LocalStack, environment: dict[str, str], *words: str) -> tuple[int, str]:
    addresses = {f"SLUICE_{stage.upper()}": stack.address(stage) for stage in ("gateway", "rollout")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sluice_cli.main", *words),
        env={**os.environ, **addresses, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, output.decode()


async def test_the_command_works_with_a_key_and_each_key_has_its_roles(tmp_path: Path) -> None:
    files = Secured.prepared(STAGES, tmp_path / "files")
    callers = (tmp_path / "files" / "callers.toml").read_text()
    assert not any(files.token(name) in callers for name in ROLES)
    (tmp_path / "note.md").write_text("# Valves\n\nA sluice is a gate for water.\n")
    async with LocalStack(name="secured", environment=QUICK, data=tmp_path / "data", secured=files) as stack:

        async def by(name: str, *words: str) -> tuple[int, str]:
            return await sluice(stack, files.client_environment(name), *words)

        assert (await by("me", "index", str(tmp_path / "note.md")))[0] == 0
        code, said = await by("reader", "search", "water gate")
        assert code == 0, said
        assert "Valves" in said
        code, said = await by("reader", "index", str(tmp_path / "note.md"))
        assert code == 3, said
        assert "may not DocumentService/IndexDocuments" in said
        assert (await by("me", "rollout", "list"))[0] == 0
        assert (await by("reader", "rollout", "list"))[0] == 3
        code, said = await by("me", "rollout", "create", "one", "--rerank", "--reason", "to see")
        assert code == 0, said
        code, said = await by("auditor", "rollout", "history", "one")
        assert code == 0, said
        assert "key:me" in said
        code, said = await by("auditor", "rollout", "show", "one")
        assert "dns:gateway/one" in said, said
        code, said = await by("me", "doctor")
        assert REFUSED not in said
        without = {"SLUICE_TLS_AUTHORITY": str(files.authority)}
        code, said = await sluice(stack, without, "search", "water gate")
        assert code == 3
        assert "SLUICE_TOKEN" in said
