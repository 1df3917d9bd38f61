"""The local stack, as far as it goes without models."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import deploy.local.__main__ as cli
from deploy.local import parent_death, paths, processes, stack, state
from deploy.local.processes import Process
from deploy.local.stack import STAGES, LocalStack, feedback_key, stop_stages
from deploy.local.state import Running, Started
from services.chassis.errors import StartupError

PATIENCE_SECONDS = 20


@pytest.fixture(autouse=True)
def build_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    return tmp_path / "build"


@pytest.fixture
def python():
    """Starts Python programs and waits until each says that it is ready."""
    started = []

    def start(program, *arguments):
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program, *arguments], stdout=subprocess.PIPE, start_new_session=True
        )
        started.append(child)
        child.stdout.readline()
        return child

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stdout.close()


SLEEPS = "import time; print('ready', flush=True); time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"


def eventually(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_a_process_is_alive_until_it_ends_even_when_nobody_has_asked_for_its_status(python):
    child = python(SLEEPS)
    process = Process.of(child.pid)
    assert process.alive
    assert process.resident_mib > 1
    os.kill(child.pid, signal.SIGKILL)
    assert eventually(lambda: not process.alive)
    assert process.resident_mib == 0


def test_another_process_with_the_same_number_is_not_it(python):
    child = python(SLEEPS)
    impostor = Process(child.pid, Process.of(child.pid).started - 1)
    impostor.terminate()
    impostor.kill()
    assert not impostor.alive
    assert Process.of(child.pid).alive


async def test_a_process_that_does_not_listen_is_killed_after_the_grace(python):
    deaf = Process.of(python(DEAF).pid)
    await processes.stop([deaf], grace_seconds=0.1)
    assert not deaf.alive


async def test_stopping_ends_processes_even_when_it_is_cancelled(python):
    deaf = Process.of(python(DEAF).pid)
    stopping = asyncio.create_task(processes.stop([deaf], grace_seconds=600))
    await asyncio.sleep(0.1)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert eventually(lambda: not deaf.alive)


async def test_the_gateway_stops_before_the_others(python, tmp_path):
    last_words = """
import signal, sys, time
def stop(*_):
    time.sleep(0.3 if sys.argv[1] == "gateway" else 0)
    open(sys.argv[2], "a").write(sys.argv[1] + " ")
    sys.exit()
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(600)
"""
    order = tmp_path / "order"
    names = ("embedder", "gateway", "retriever")
    await stop_stages({name: Process.of(python(last_words, name, str(order)).pid) for name in names})
    words = order.read_text().split()
    assert words[0] == "gateway"
    assert sorted(words) == sorted(names)


DYING_WITH_ITS_PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-I", "-S", sys.argv[1], str(os.getpid()), sys.executable, "-I", "-S", "-c", sys.argv[2]],
    stdout=subprocess.PIPE, start_new_session=True,
)
child.stdout.readline()
open(sys.argv[3], "w").write(str(child.pid))
print("ready", flush=True)
time.sleep(600)
"""


def test_a_process_with_the_parent_death_signal_dies_with_its_parent(python, tmp_path):
    parent = python(DYING_WITH_ITS_PARENT, parent_death.__file__, SLEEPS, str(tmp_path / "pid"))
    child = Process.of(int((tmp_path / "pid").read_text()))
    assert child.alive
    assert (
        Path(f"/proc/{child.pid}/cmdline").read_text(encoding="utf-8").split("\0")[-2] == SLEEPS
    )  # it has become the command
    os.kill(parent.pid, signal.SIGKILL)
    assert eventually(lambda: not child.alive)


def test_a_command_whose_parent_has_died_already_is_not_started(tmp_path):
    done = subprocess.run([sys.executable, parent_death.__file__, "1", "/bin/touch", tmp_path / "started"], check=False)
    assert done.returncode == 1
    assert not (tmp_path / "started").exists()


async def test_a_stage_that_cannot_start_is_reported_with_its_own_words_and_nothing_stays_behind(tmp_path):
    environment = {"EMBEDDING_MODEL": "", "EXPANSION_STRATEGY": "synonyms", "WORDNET_DIR": str(tmp_path / "nowhere")}
    broken = LocalStack(name="broken", environment=environment, data=tmp_path / "data")
    with pytest.raises(StartupError, match=r"^expander: .*nowhere") as refused:
        async with broken:
            pass
    assert "expander.log" in refused.value.remedy
    assert set(broken.processes()) == set(STAGES)
    assert not any(process.alive for process in broken.processes().values())


async def test_a_stage_that_dies_without_a_word_is_reported_with_the_end_of_its_log(monkeypatch, tmp_path):
    monkeypatch.setattr(stack, "STAGES", (*STAGES, "mistake"))
    with pytest.raises(StartupError, match=r"mistake: ended with exit status 1.*\n.*No module named services\.mistake"):
        async with LocalStack(name="broken", environment={"EMBEDDING_MODEL": ""}, data=tmp_path / "data"):
            pass


def variables_of(pid):
    pairs = Path(f"/proc/{pid}/environ").read_text(encoding="utf-8").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


async def test_all_that_a_stack_keeps_lies_in_its_folder(tmp_path):
    kept = LocalStack(name="kept", environment={"EMBEDDING_MODEL": ""}, data=tmp_path)
    try:
        kept.spawn()
        values = variables_of(kept.pid("gateway"))
    finally:
        await kept.abandon()
    for name in ("QDRANT_PATH", "QDRANT_SNAPSHOT_PATH", "ROLLOUT_DATABASE_URL", "ROLLOUT_SNAPSHOT_PATH"):
        assert str(tmp_path) in values[name]


def test_a_port_that_somebody_listens_on_is_named(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setitem(stack.WELL_KNOWN_PORTS, "gateway", (port, 0))
        with pytest.raises(StartupError, match=f"port {port} is taken"):
            LocalStack(name="taken", well_known_ports=True, data=tmp_path).spawn()


def test_a_held_port_is_free_for_the_stage_and_for_nobody_else(tmp_path):
    holder = LocalStack(name="held", data=tmp_path)
    held = holder._reserved(0)
    with socket.socket() as careless, pytest.raises(OSError, match="in use"):
        careless.bind(("127.0.0.1", held))
    with socket.create_server(("127.0.0.1", held)) as server:  # which sets SO_REUSEADDR, as gRPC does
        assert server.getsockname()[1] == held


def started(process, profile="development"):
    address = "127.0.0.1:1"
    return Started(
        profile,
        {stage: Running(process, address, "http://127.0.0.1:1/metrics", Path(f"{stage}.log")) for stage in STAGES},
    )


@pytest.fixture
def running(python):
    with state.alone():
        state.write(started(Process.of(python(SLEEPS).pid)))


def test_what_was_written_is_read_again(python):
    with state.alone():
        what = started(Process.of(python(SLEEPS).pid))
        state.write(what)
    assert state.read() == what


def test_a_state_whose_processes_are_all_gone_is_none():
    with state.alone():
        state.write(started(Process(os.getpid(), 1)))
    assert state.read() is None


def test_a_damaged_state_says_what_to_do():
    with state.alone():
        state.write(started(Process(1, 1)))
    (paths.run_folder("local") / "state.json").write_text("{")
    with pytest.raises(StartupError, match="damaged"):
        state.read()


def test_two_at_once_are_refused():
    with state.alone(), pytest.raises(StartupError, match="under way"), state.alone():
        pass


def invoke(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


def test_down_when_nothing_runs_is_no_error():
    answer = invoke("down")
    assert (answer.exit_code, answer.output) == (0, "Nothing is running.\n")


def test_down_stops_what_runs_and_then_nothing_runs(running):
    process = next(iter(state.read().processes.values()))
    assert json.loads(invoke("down", "--json").stdout) == {"stopped": sorted(STAGES)}
    assert not process.alive
    assert json.loads(invoke("status", "--json").stdout) == {"profile": None, "stages": []}


def test_status_tells_a_stage_that_does_not_answer_by_its_exit_status(running):
    answer = invoke("status", "--json")
    assert answer.exit_code == 3
    assert all(stage["health"].startswith("UNAVAILABLE") for stage in json.loads(answer.stdout)["stages"])


def test_up_leaves_running_what_runs(running):
    assert invoke("up").exit_code == 0


def test_up_with_another_profile_is_refused(running):
    assert "'development' is running" in str(invoke("up", "--profile", "staging").exception)


def test_up_tells_which_stage_of_a_running_stack_has_died(python):
    whole = started(Process.of(python(SLEEPS).pid))
    with state.alone():
        gone = Running(Process(os.getpid(), 1), "127.0.0.1:1", "", Path("x"))
        state.write(Started("development", {**whole.stages, "reranker": gone}))
    assert "has died: reranker" in str(invoke("up").exception)


def test_the_last_lines_of_a_log_are_shown():
    folder = paths.run_folder("local")
    folder.mkdir(parents=True)
    (folder / "gateway.log").write_text("one\ntwo\nthree\n")
    assert invoke("logs", "gateway", "-n", "2").stdout.splitlines()[-2:] == ["two", "three"]


def test_an_unknown_stage_has_no_log():
    assert "no stage 'gate'" in str(invoke("logs", "gate").exception)


def test_a_stack_keeps_the_key_of_its_impressions_for_its_owner_alone(tmp_path):
    key = feedback_key(tmp_path)
    assert len(key) == 64
    assert feedback_key(tmp_path) == key
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
