"""Export a model to ONNX by torch, for architectures that `graph` cannot build, and compare it with its origin.

Called as `python -m services.inference.models.export KIND MODEL_FOLDER TARGET`.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import onnx
import torch

from services.chassis.errors import StartupError
from services.inference.cpu import available_cpus
from services.inference.models.artifacts import write_facts
from services.inference.models.info import ModelKind, ModelSpec
from services.inference.models.onnx import GRAPH_FILE, OnnxModel, OnnxRuntime
from services.inference.models.quality import PROBES, answers_of, problem_of_answers
from services.inference.models.reference import ReferenceModel, reference_answers
from services.inference.models.tokenization import Tokenizer, feed_for


def export(kind: ModelKind, folder: Path, target: Path) -> None:
    """Write graph, tokenizer and spec into `target`; raise StartupError if their outputs are not those of the model."""
    # The plain attention is what exports to plain operators, which ONNX Runtime fuses by itself.
    reference = ReferenceModel(folder, kind, "cpu", attention="eager")
    spec = reference.spec()
    write_facts(target, spec, reference.tokenizer_definition())
    _write_graph(reference, spec, target)
    exported = OnnxRuntime(OnnxModel.read(target), name=folder.name, fingerprint="", threads=available_cpus())
    answers = answers_of(exported, kind)
    if problem := problem_of_answers(answers, exported.info, reference_answers(reference.model)):
        raise StartupError(f"the exported {kind} is wrong: {problem}", remedy="Choose another model.")


def _write_graph(model: ReferenceModel, spec: ModelSpec, target: Path) -> None:
    texts = Tokenizer(model.tokenizer_definition(), spec.max_token_count).texts(PROBES[:4])
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
