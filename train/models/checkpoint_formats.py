"""How each format of checkpoints names an encoder's weights, and which formats cannot be used: checkpoint_formats.toml.

The canonical names are those of the official VideoMAE code and of `videomae.Classifier`: the encoder's without a
prefix, then `fc_norm` and `head`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from manifests.errors import UserError
from manifests.text import shorten_list
from train.lineage import Lineage
from train.models.videomae import InputRange

_CANONICAL = re.compile(
    r"pos_embed|(patch_embed\.proj|norm|fc_norm|head)\.(weight|bias)"
    r"|blocks\.\d+\.((norm1|norm2|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)|attn\.(qkv\.weight|q_bias|v_bias))"
    r"|blocks\.\d+\.attn\.(query|key|value)\.weight"  # separate in some formats, stacked to qkv here
)


class WeightsError(UserError):
    """Weights cannot be used."""


@dataclass(frozen=True, kw_only=True)
class CheckpointFormat:
    """How one family of checkpoints names its weights, and what its encoders expect."""

    name: str
    signature: str
    """Pattern of a key that no other format has."""
    prefix: str
    """Pattern of an optional prefix of the encoder's keys."""
    renames: Mapping[str, str] = field(default_factory=dict)
    """Parts of keys -> canonical parts, replaced in this order."""
    ignored: str
    """Pattern of the keys that are not used, such as those of a decoder."""
    licence: str
    lineage: Lineage | None = None
    """Of all of its checkpoints, where they have one origin."""
    layer_norm_eps: float
    input_range: InputRange

    def canonical(self, key: str) -> str | None:
        """Canonical name of a key, None if the format has no such key."""
        name = self.rename(re.sub(f"^{self.prefix}", "", key))
        return name if _CANONICAL.fullmatch(name) else None

    def rename(self, name: str) -> str:
        """A name with the parts that the format calls otherwise."""
        for part, canonical in self.renames.items():
            name = name.replace(part, canonical)
        return name


_DATA = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
FORMATS = tuple(
    CheckpointFormat(**{**settings, "lineage": Lineage(**settings["lineage"])} if "lineage" in settings else settings)
    for settings in _DATA["format"]
)
#: Pattern of a hub id -> lineage of what is published there.
PUBLISHED: Mapping[str, Lineage] = {pattern: Lineage(**settings) for pattern, settings in _DATA["published"].items()}
#: Other architectures: pattern of a key that only they have -> description.
_UNSUPPORTED: Mapping[str, str] = _DATA["unsupported"]


def detect_format(keys: Iterable[str], where: str) -> CheckpointFormat:
    """The format of a state dict's keys. Raises WeightsError, beginning with `where`, for one that cannot be used."""
    keys = list(keys)
    for pattern, architecture in _UNSUPPORTED.items():
        if any(re.fullmatch(pattern, key) for key in keys):
            raise WeightsError(f"{where}: found {architecture}; expected the plain encoder of VideoMAE or MARLIN")
    for known in FORMATS:
        if any(re.fullmatch(known.signature, key) for key in keys):
            return known
    names = ", ".join(known.name for known in FORMATS)
    raise WeightsError(f"{where}: found keys {quote_keys(keys)}, expected those of {names}")


def canonical_state(
    state: Mapping[str, Tensor], known: CheckpointFormat, where: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Canonical name -> tensor, with query, key and value of a block stacked [3 D, D]; and the keys that are ignored.

    Raises WeightsError, beginning with `where`, for an unknown key, or one that has another's canonical name.
    """
    tensors: dict[str, Tensor] = {}
    ignored, unknown = [], []
    for key, tensor in state.items():
        name = known.canonical(key)
        if re.fullmatch(known.ignored, key):
            ignored.append(key)
        elif name is None:
            unknown.append(key)
        elif name in tensors:
            raise WeightsError(f"{where}: found {key}, which is {name}, a second time; expected each weight once")
        else:
            tensors[name] = tensor
    if unknown:
        raise WeightsError(f"{where}: found unknown keys {quote_keys(unknown)}, expected only those of {known.name}")
    stack_projections(tensors)
    return tensors, tuple(ignored)


def stack_projections(tensors: dict[str, Tensor]) -> None:
    """Replace query, key and value of each block by one matrix [3 D, D], where all three are there in one shape."""
    for query in [name for name in tensors if name.endswith(".query.weight")]:
        block = query.removesuffix("query.weight")
        parts = [f"{block}{part}.weight" for part in ("query", "key", "value")]
        if len({tensors[part].shape if part in tensors else None for part in parts}) == 1:
            tensors[f"{block}qkv.weight"] = torch.cat([tensors.pop(part) for part in parts])


def quote_keys(keys: Iterable[str]) -> str:
    """The first few keys of an untrusted file, for an error."""
    return shorten_list([repr(key[:80]) for key in keys] or ["none"], 3)
