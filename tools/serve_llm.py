"""Serve the small language model of tools/fetch_llm.py, OpenAI-compatible, until a signal: `python tools/serve_llm.py`.

Prints its URL as the first line. For a machine of one's own: it asks for no key.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import fetch_llm

CONTEXT_TOKENS = 4096


def main() -> None:
    """Load the model, serve it, and wait."""
    parser = argparse.ArgumentParser(prog="serve_llm", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0, the default, lets the system choose")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    arguments = parser.parse_args()
    # Before the server starts threads of its own: the signal is to reach sigwait alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    server = _server(arguments.port, arguments.threads)
    print(server.listening_address, flush=True)
    print(
        "Ask it, in another terminal:\n"
        f"  REASONER_LLM_URL={server.listening_address} REASONER_LLM_API=openai \\\n"
        f"  REASONER_LLM_MODEL={fetch_llm.NAME} REASONER_CONTEXT_TOKENS={CONTEXT_TOKENS} ENABLE_REASONING=1 make up\n"
        '  sluice answer "how is a stage added?"',
        file=sys.stderr,
        flush=True,
    )
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


def _server(port: int, threads: int) -> Any:
    sys.path.insert(0, str(fetch_llm.packages()))
    import xllamacpp  # noqa: PLC0415  # it lies outside the environment

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(fetch_llm.weights())
    parameters.model_alias = {fetch_llm.NAME}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    return xllamacpp.Server(parameters)


if __name__ == "__main__":
    main()
