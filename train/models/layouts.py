"""How each family of checkpoints names an encoder's weights, and which families cannot be used. Pure.

The canonical names are those of the official VideoMAE code, which are those of `videomae.Encoder`, with `fc_norm` and
`head` beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from train.models.videomae import InputRange

_CANONICAL = re.compile(
    r"pos_embed|(patch_embed\.proj|norm|fc_norm|head)\.(weight|bias)"
    r"|blocks\.\d+\.((norm1|norm2|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)|attn\.(qkv\.weight|q_bias|v_bias))"
    r"|blocks\.\d+\.attn\.(query|key|value)\.weight"  # apart in some families, stacked to qkv here
)


class WeightsError(ValueError):
    """Weights cannot be used; one line that says where, what was found, what was expected and what to do."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one family of checkpoints names its weights, and what its encoders expect."""

    name: str
    signature: str
    """Pattern of a key that no other family has."""
    prefix: str
    """Pattern of what may stand in front of an encoder's keys."""
    renames: tuple[tuple[str, str], ...] = ()
    """Parts of keys -> canonical parts, replaced in this order."""
    leave: str
    """Pattern of the keys that are of no use."""
    licence: str
    layer_norm_eps: float
    input_range: InputRange

    def canonical(self, key: str) -> str | None:
        """Canonical name of a key, None where the family has no such key."""
        name = re.sub(f"^{self.prefix}", "", key)
        for found, wanted in self.renames:
            name = name.replace(found, wanted)
        return name if _CANONICAL.fullmatch(name) else None


LAYOUTS = (
    Layout(
        name="VideoMAE",
        signature=r"((encoder|backbone)\.)?patch_embed\.proj\.weight",
        prefix=r"(encoder|backbone)\.",
        leave=r"decoder\..*|encoder_to_decoder\.weight|mask_token",
        licence="CC BY-NC 4.0",
        layer_norm_eps=1e-6,
        input_range="imagenet",
    ),
    Layout(
        name="VideoMAE from Hugging Face",
        signature=r"(videomae\.)?embeddings\.patch_embeddings\.projection\.weight",
        prefix=r"videomae\.",
        renames=(
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("encoder.layer.", "blocks."),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("attention.attention.query.bias", "attn.q_bias"),
            ("attention.attention.value.bias", "attn.v_bias"),
            ("attention.attention", "attn"),
            ("attention.output.dense", "attn.proj"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
            ("layernorm.", "norm."),
            ("classifier.", "head."),
        ),
        leave=r"decoder\..*|encoder_to_decoder\.weight|mask_token",
        licence="CC BY-NC 4.0 (MCG-NJU's own; of others their model card tells)",
        layer_norm_eps=1e-6,
        input_range="imagenet",
    ),
    Layout(
        name="MARLIN",
        signature=r"(marlin\.)?encoder\.patch_embedding\.projection\.weight",
        prefix=r"(marlin\.)?encoder\.",
        renames=(
            ("patch_embedding.projection", "patch_embed.proj"),
            ("pos_embedding.emb", "pos_embed"),
            ("mlp.layers.0.linear", "mlp.fc1"),
            ("mlp.layers.1.linear", "mlp.fc2"),
        ),
        leave=r"(marlin\.)?(decoder|enc_dec_proj|discriminator)\..*",
        licence="CC BY-NC 4.0",
        layer_norm_eps=1e-5,
        input_range="unit",
    ),
)

#: Other architectures: pattern of a key that only they have -> what they are.
_REFUSED: Mapping[str, str] = {
    r"(encoder\.)?(lg_region_tokens|blocks\.\d+\.first_attn\..*)": "MAE-DFER, whose blocks attend within regions and "
    "then between them (width 512)",
    r"encoder_(audio|fusion)\..*": "HiCMAE, which has an encoder for each modality and a third one to fuse them",
}


def recognise(keys: Iterable[str], where: str) -> Layout:
    """The family that keys are of. Raises WeightsError, beginning with `where`, for one that cannot be used."""
    keys = list(keys)
    for pattern, architecture in _REFUSED.items():
        if any(re.fullmatch(pattern, key) for key in keys):
            raise WeightsError(f"{where}: found {architecture}; expected the plain encoder of VideoMAE or MARLIN")
    for layout in LAYOUTS:
        if any(re.fullmatch(layout.signature, key) for key in keys):
            return layout
    raise WeightsError(
        f"{where}: found keys {listed(keys)}, expected those of {', '.join(layout.name for layout in LAYOUTS)}"
    )


def translate(state: Mapping[str, Tensor], layout: Layout, where: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Canonical name -> tensor, and the keys that are of no use.

    Raises WeightsError, beginning with `where`, for a key that is neither, or says what another said.
    """
    tensors: dict[str, Tensor] = {}
    left, unknown = [], []
    for key, tensor in state.items():
        name = layout.canonical(key)
        if re.fullmatch(layout.leave, key):
            left.append(key)
        elif name is None:
            unknown.append(key)
        elif name in tensors:
            raise WeightsError(f"{where}: found {key}, which is {name}, a second time; expected each weight once")
        else:
            tensors[name] = tensor
    if unknown:
        raise WeightsError(f"{where}: found unknown keys {listed(unknown)}, expected only those of {layout.name}")
    return _stacked(tensors), tuple(left)


def listed(names: Iterable[str]) -> str:
    """The first few names, for an error."""
    first, *more = [repr(name[:80]) for name in names] or ["none"]
    return ", ".join([first, *more[:2]]) + (f" and {len(more) - 2} more" if len(more) > 2 else "")


def _stacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with query, key and value of a block, where they are apart and alike, as one matrix [3 D, D]."""
    for query in [name for name in tensors if name.endswith(".query.weight")]:
        block = query.removesuffix("query.weight")
        parts = [f"{block}{part}.weight" for part in ("query", "key", "value")]
        if len({tensors[part].shape if part in tensors else None for part in parts}) == 1:
            tensors[f"{block}qkv.weight"] = torch.cat([tensors.pop(part) for part in parts])
    return tensors
