"""Export a model to ONNX by torch, for architectures that `graph` cannot build, and compare it with its origin.

Called as `python -m services.inference.models.export KIND MODEL_FOLDER TARGET`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder, SentenceTransformer

from services.chassis.errors import StartupError
from services.inference.cpu import available_cpus
from services.inference.models.artifacts import write_facts
from services.inference.models.info import ModelKind, ModelSpec
from services.inference.models.onnx import GRAPH_FILE, OnnxModel, OnnxRuntime
from services.inference.models.reference import ReferenceModel
from services.inference.models.tokenization import Tokenizer, feed_for

# Relative to the largest number in the output. Between two fp32 engines it is about 1e-6.
_TOLERANCE = 1e-4
_SHORT = ["", "a short text", "naïve café, 東京 and a 😀", "compare two files line by line " * 5]
_LONG = [" ".join(f"word{number}" for number in range(600))]


def export(kind: ModelKind, folder: Path, target: Path) -> None:
    """Write graph, tokenizer and spec into `target`; raise StartupError if their outputs are not those of the model."""
    # The plain attention is what exports to plain operators, which ONNX Runtime fuses by itself.
    reference = ReferenceModel(folder, kind, "cpu", attention="eager")
    spec = reference.spec()
    write_facts(target, spec, reference.tokenizer_definition())
    _write_graph(reference, spec, target)
    exported = OnnxRuntime(OnnxModel.read(target), name=folder.name, fingerprint="", threads=available_cpus())
    difference = max(
        float(np.abs(ours - theirs).max() / np.abs(theirs).max()) for ours, theirs in _probe(exported, reference.model)
    )
    if not difference <= _TOLERANCE:
        raise StartupError(
            f"the exported {kind} differs from sentence-transformers by {difference:.1g} of its largest output",
            remedy="Set the backend to torch.",
        )


def _probe(
    exported: OnnxRuntime, model: SentenceTransformer | CrossEncoder
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Run the same texts through the export and through the public calls of sentence-transformers."""
    tokenizer, prompts = exported.tokenizer, exported.spec.prompts
    for probes in (_SHORT, _LONG):
        if isinstance(model, SentenceTransformer):
            for role, encode in (("query", model.encode_query), ("document", model.encode_document)):
                texts = tokenizer.texts([prompts[role] + probe for probe in probes])
                yield exported.run([text.ids for text in texts]), encode(probes)
        else:
            for query in (_SHORT[1], *_LONG):
                pairs = tokenizer.pairs(query, probes)
                scores = exported.run([pair.ids for pair in pairs], [pair.type_ids for pair in pairs])
                inputs = [(query, probe) for probe in probes]
                yield scores[:, 0], model.predict(inputs, activation_fn=torch.nn.Identity())


def _write_graph(model: ReferenceModel, spec: ModelSpec, target: Path) -> None:
    texts = Tokenizer(model.tokenizer_definition(), spec.max_token_count).texts(_SHORT)
    feed = feed_for([text.ids for text in texts], None, spec.pad_token_id)
    axes = {name: {0: "rows", 1: "tokens"} for name in model.input_names} | {"output": {0: "rows"}}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(torch.from_numpy(feed[name]) for name in model.input_names),
            target / GRAPH_FILE,
            input_names=model.input_names,
            output_names=["output"],
            dynamic_axes=axes,
            opset_version=17,
            # The tracing exporter: measured, its graphs run 5-10 % faster in ONNX Runtime than dynamo's, and it
            # takes 1 s where dynamo takes 10.
            dynamo=False,
        )
    # Weights next to the graph are mapped into memory by ONNX Runtime, not copied: half the resident memory.
    onnx.save(
        onnx.load(target / GRAPH_FILE),
        target / GRAPH_FILE,
        save_as_external_data=True,
        location=f"{GRAPH_FILE}.data",
    )


if __name__ == "__main__":
    try:
        export(ModelKind(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
    except StartupError as error:
        sys.exit(error.message)
