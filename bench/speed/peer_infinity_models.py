"""The model as infinity-emb's ONNX engine wants it: fp32, and the dynamic int8 that model hubs offer next to it.

Run in infinity's own folder by peers.py: `python peer_infinity_models.py MODEL_FOLDER FP32_FOLDER INT8_FOLDER`.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
from optimum.exporters.onnx import main_export  # type: ignore[import-not-found]  # of infinity's own folder
from optimum.onnxruntime import ORTQuantizer  # type: ignore[import-not-found]  # as above
from optimum.onnxruntime.configuration import AutoQuantizationConfig  # type: ignore[import-not-found]  # as above


def main(source: str, fp32: str, int8: str) -> None:
    """Write both folders."""
    # optimum is older than torch's new exporter, and expects the one before.
    torch.onnx.export = partial(torch.onnx.export, dynamo=False)
    main_export(source, fp32, task="feature-extraction", library_name="transformers", no_post_process=True)
    ORTQuantizer.from_pretrained(fp32, file_name="model.onnx").quantize(
        save_dir=int8, quantization_config=AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
