"""`python -m deploy.local.llm`: serve a small language model on this machine, OpenAI-compatible, until a signal.

The model is that of tools/fetch_llm.py. The first line printed is its URL; it asks for no key.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.local import parent_death
from deploy.local.paths import ROOT
from tools import fetch_llm

CONTEXT_TOKENS = 4096


def main() -> None:
    """Load the model, serve it, and wait."""
    parser = argparse.ArgumentParser(prog="deploy.local.llm", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0, the default, lets the system choose")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    arguments = parser.parse_args()
    # Before the server starts threads of its own: the signal is to reach sigwait alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    server = _server(arguments.port, arguments.threads)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stderr.write(
        "Ask it, in another terminal:\n"
        f"  REASONER_LLM_URL={server.listening_address} REASONER_LLM_API=openai \\\n"
        f"  REASONER_LLM_MODEL={fetch_llm.NAME} REASONER_CONTEXT_TOKENS={CONTEXT_TOKENS} ENABLE_REASONING=1 make up\n"
        '  sluice answer "how is a stage added?"\n'
    )
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


@contextmanager
def served(threads: int, log: Path) -> Iterator[str]:
    """Serve the model in a process of its own, which ends with this one; yield its URL."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [
                *(sys.executable, str(Path(parent_death.__file__)), str(os.getpid())),
                *(sys.executable, "-m", "deploy.local.llm", "--threads", str(threads)),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.kill()
            process.wait()


def _server(port: int, threads: int) -> Any:
    sys.path.insert(0, str(fetch_llm.packages()))
    xllamacpp = importlib.import_module("xllamacpp")  # it lies outside the environment
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(fetch_llm.weights())
    parameters.model_alias = {fetch_llm.NAME}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = 1
    # Between batches it sees that a caller has left.
    parameters.n_batch = parameters.n_ubatch = 64
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    return xllamacpp.Server(parameters)


if __name__ == "__main__":
    main()
