"""`python -m bench.speed`: the table of issue 3, measured here and now."""

from __future__ import annotations

import typer

from bench.speed.cli import AsJson, Only, Quick, Rounds, examples, measure
from bench.speed.measurements import MEASUREMENTS

EXAMPLES = """
python -m bench.speed                           everything, about 15 minutes
python -m bench.speed --only 'embed/*'          the embedder alone
python -m bench.speed --only '*vs_raw*' --rounds 9
python -m bench.speed --quick                   whether it runs at all: its figures mean little
python -m bench.speed.peers                     against infinity-emb and sentence-transformers
python -m bench.speed.soak                      memory over 100,000 calls
"""

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(epilog=examples(EXAMPLES))
def main(only: Only = "*", rounds: Rounds = 5, quick: Quick = False, as_json: AsJson = False) -> None:
    """Measure the embedder and the reranker over gRPC against their own models in-process.

    Leave the machine alone meanwhile. Rows go to build/bench/speed.json, over earlier ones of the same name.
    """
    measure("python -m bench.speed", MEASUREMENTS, only=only, rounds=rounds, quick=quick, as_json=as_json)


if __name__ == "__main__":
    app()
