"""A classifier as an ONNX file, for programs without PyTorch.

    video   float32 [clips, 3, T, H, W], composed by the strategy and scaled as `input_range` says
    logits  float32 [clips, classes]

What else a program needs is in the file's metadata: `classes` (JSON list), `input_range`, `strategy`.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from torch import nn

from manifests.errors import UserError, describe_missing
from manifests.files import atomic_write
from train.models.checkpoint_io import first_line
from train.models.videomae import Classifier

ONNX_FILE = "model.onnx"
#: One file has at most 2 GiB.
_MOST_BYTES = (1 << 31) - (1 << 20)


class OnnxError(UserError):
    """A model that cannot be written as ONNX."""


def write_onnx(path: Path, model: Classifier, classes: tuple[str, ...], metadata: Mapping[str, str]) -> None:
    """Write a classifier as one file. Raises OnnxError for one that cannot be exported, or without the package."""
    try:
        import onnxscript  # noqa: F401 - which torch's exporter imports when it runs
    except ModuleNotFoundError as error:
        raise OnnxError(f"{path}: {describe_missing(error, 'onnx')}, or export without FORMAT=onnx") from error
    weights_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if weights_bytes > _MOST_BYTES:
        raise OnnxError(f"{path}: found {weights_bytes:,} bytes of weights, expected at most {_MOST_BYTES:,} for ONNX")
    video = torch.zeros(2, 3, *model.encoder.config.input)
    try:
        data = _export(model.cpu().eval(), video, {"classes": json.dumps(classes), **metadata})
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
        raise OnnxError(f"{path}: the encoder cannot be exported ({first_line(error)})") from error
    atomic_write(path, data)


def _export(model: nn.Module, video: torch.Tensor, metadata: Mapping[str, str]) -> bytes:
    """The file's bytes; what the exporter prints is left out."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")  # of deprecations within the exporter
            program = torch.onnx.export(
                model,
                (video,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("clips")},),
                input_names=["video"],
                output_names=["logits"],
                verbose=False,
            )
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    proto = program.model_proto
    for name, value in sorted(metadata.items()):
        entry = proto.metadata_props.add()
        entry.key, entry.value = name, value
    return bytes(proto.SerializeToString(deterministic=True))
