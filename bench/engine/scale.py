"""`python -m bench.engine.scale`: memory, disk and cost of a collection by its size and quantization, computed.

The formulas of docs/scale.md, which says what was measured of them.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

BYTES_A_VALUE = {"none": 4.0, "int8": 1.0, "turbo": 0.5, "binary": 0.125}
GRAPH_BYTES_AN_EDGE = 4
"""Of 2 m edges on the lowest level; the levels above add a part in m."""
ID_BYTES = 48
"""Of a point in memory: its id, its place, its revision of the engine."""
BYTES_A_TOKEN_VECTOR = 129
"""Of a passage's tokens, each group of two; kept once, and read from the disk."""
BYTES_A_TERM = 8
"""Of a term of a passage in the index of words: the passage and the weight."""
SPARE = 1.2
"""Room for what is written, merged and rebuilt, as a multiple."""
GB = 1e9


def memory(dimension: int, quantization: str, terms: float, *, vectors_on_disk: bool, edges: int = 16) -> float:
    """Bytes of memory a passage: what searches read all the time."""
    whole = 0.0 if vectors_on_disk else 4.0 * dimension
    copy = 0.0 if quantization == "none" else BYTES_A_VALUE[quantization] * dimension
    graph = GRAPH_BYTES_AN_EDGE * 2 * edges * (1 + 1 / edges)
    return (whole + copy + graph + ID_BYTES + BYTES_A_TERM * terms) * SPARE


def disk(dimension: int, quantization: str, terms: float, payload: float, tokens: float = 0, edges: int = 16) -> float:
    """Bytes on the disk a passage: everything, and a second time the largest part while it is rebuilt."""
    copy = 0.0 if quantization == "none" else BYTES_A_VALUE[quantization] * dimension
    graph = GRAPH_BYTES_AN_EDGE * 2 * edges * (1 + 1 / edges)
    # Words are kept twice: as they were stored, and as the index.
    words = 2 * BYTES_A_TERM * terms
    return (4.0 * dimension + copy + graph + ID_BYTES + words + payload + BYTES_A_TOKEN_VECTOR * tokens) * 2


def main(
    dimension: Annotated[int, typer.Option(help="Values of a vector.")] = 384,
    terms: Annotated[float, typer.Option(help="Different words of a passage.")] = 60,
    payload: Annotated[float, typer.Option(help="Bytes of title, text and metadata of a passage.")] = 1000,
    tokens: Annotated[float, typer.Option(help="Token vectors of a passage; some 70 of a long one, 76 at most.")] = 0,
    replicas: Annotated[int, typer.Option(help="Nodes that hold each passage, beyond one million.")] = 2,
    node: Annotated[float, typer.Option(help="Memory of a node for data, in GB.")] = 48,
    memory_price: Annotated[float, typer.Option(help="Price of a GB of memory a month.")] = 4.0,
    disk_price: Annotated[float, typer.Option(help="Price of a GB of disk a month.")] = 0.1,
) -> None:
    """Print the table of docs/scale.md.

    Examples:  python -m bench.engine.scale  ·  python -m bench.engine.scale --dimension 768 --payload 2000
    """
    table = Table("passages", "quantization", "memory GB", "disk GB", "nodes", "a month", "a month and million")
    for millions in (0.2, 1, 10, 100, 1000):
        for quantization in BYTES_A_VALUE:
            copies = 1 if millions <= 1 else replicas
            on_disk = quantization != "none"
            passages = millions * 1e6 * copies
            in_memory = passages * memory(dimension, quantization, terms, vectors_on_disk=on_disk) / GB
            stored = passages * disk(dimension, quantization, terms, payload, tokens) / GB
            nodes = 1 if millions <= 1 else max(3, -(-in_memory // node))
            price = in_memory * memory_price + stored * disk_price
            table.add_row(
                f"{millions:g} million", quantization, f"{in_memory:,.1f}", f"{stored:,.1f}", f"{nodes:.0f}",
                f"{price:,.0f}", f"{price / millions:,.1f}",
            )  # fmt: skip
    Console(width=110).print(table)


if __name__ == "__main__":
    typer.run(main)
