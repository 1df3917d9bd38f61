"""Quality lost to int8: nDCG@10 of an exact dense search over a collection with known answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.quality import beir, measures
from bench.speed.raw import RawProcess
from deploy.local.paths import ROOT

SCIFACT = ROOT.parent / "shared" / "data" / "ir" / "scifact"
_DEPTH = 10


def ndcg_loss(fp32: RawProcess, int8: RawProcess, folder: Path = SCIFACT) -> Mapping[str, Any]:
    """nDCG@10 by each, and what share of it int8 loses, in percent; a note where the collection is not there."""
    if not folder.is_dir():
        return {"ndcg_note": f"{folder} is not there"}
    dataset = beir.load(folder)
    documents = [" ".join(filter(None, (document.title, document.text))) for document in dataset.documents]
    found = {
        name: _ndcg(dataset, raw.vectors(documents), raw.vectors(list(dataset.queries.values())))
        for name, raw in (("fp32", fp32), ("int8", int8))
    }
    loss = round((1 - found["int8"] / found["fp32"]) * 100, 2)
    return {"ndcg_collection": dataset.name, "ndcg@10": found, "ndcg_loss_percent": loss}


def _ndcg(dataset: beir.Dataset, documents: NDArray[np.float32], queries: NDArray[np.float32]) -> float:
    ids = [document.id for document in dataset.documents]
    best = np.argsort(-(queries @ documents.T), axis=1)[:, :_DEPTH]
    run = {query: [ids[place] for place in places] for query, places in zip(dataset.queries, best, strict=True)}
    values = measures.by_query(dataset.qrels, run)[measures.NDCG]
    return round(sum(values.values()) / len(values), 4)
