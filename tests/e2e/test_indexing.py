"""The indexing command as people run it: killed, started again, and nothing lost."""

from __future__ import annotations

import pytest

from drills.crash.index_drill import drill

pytestmark = pytest.mark.asyncio(loop_scope="function")


async def test_an_indexing_that_is_killed_and_started_again_stores_what_an_undisturbed_one_does() -> None:
    (row,) = await drill(2, documents=600, stages=())
    assert row["ok"], row["observed"]
