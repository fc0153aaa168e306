"""Checkpoint files, from a file, a folder or the Hugging Face hub, read without executing anything in them."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from manifests.errors import install_command
from manifests.stores import UnreachableError
from manifests.stores.http import require_reachable
from manifests.text import shorten_list
from train.lineage import METADATA_KEY, Lineage
from train.models.checkpoint_formats import WeightsError
from train.models.checkpoint_scan import check_checkpoint, is_archive

WEIGHTS_FILE = "model.safetensors"
MODEL_CONFIG_FILE = "config.json"
#: Folder of the classifier in that of a run, whose own config.json is another one.
RUN_MODEL = "model"

#: Names of weights in a folder or on the hub; the first one found is used.
_NAMES = (WEIGHTS_FILE, "pytorch_model.bin")
#: Keys under which training code saves the state dict, next to optimizer and settings; the first one found is used.
_WRAPPERS = ("model", "module", "state_dict")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_MAX_CONFIG_BYTES = 1 << 20
#: Size of the number of bytes of a safetensors header, at the beginning of the file.
_LENGTH_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """Content of a checkpoint."""

    where: str
    """Its name in errors: the file, or the hub id and the file."""
    state: Mapping[str, Tensor]
    """Its own keys -> dense floating-point tensors on the CPU."""
    settings: Mapping[str, Any]
    """Content of the `config.json` in the same folder, {} without one; JSON values."""
    metadata: Mapping[str, str]
    """Of a safetensors file; {} for others."""


def read_checkpoint(source: str | Path) -> CheckpointFile:
    """Read a checkpoint file, the one in a folder or a run, or that of a hub id. Raises WeightsError for others."""
    path, where = _locate(source)
    settings = _settings(path)
    encoder = settings.get("encoder")
    own = path.suffix == ".safetensors" and isinstance(encoder, dict) and "path" in encoder
    state = _state_dict(_read(path), where, integers=own)  # of batch normalization in an encoder of one's own
    return CheckpointFile(where=where, state=state, settings=settings, metadata=_metadata(path))


def classifier_folder(folder: Path) -> Path:
    """Folder of the classifier in that of a run, or else the folder itself."""
    return folder / RUN_MODEL if (folder / RUN_MODEL).is_dir() else folder


def read_settings(folder: Path) -> dict[str, Any]:
    """`config.json` of a classifier's folder, {} without one. Raises WeightsError for one that cannot be read."""
    return _settings(folder / WEIGHTS_FILE)


def dump_weights(model: nn.Module | Mapping[str, Tensor], lineage: Lineage) -> bytes:
    """A model, or a state dict, as bytes of a safetensors file, with what it descends from in its metadata."""
    state, seen = {}, set()
    for name, tensor in (model.state_dict() if isinstance(model, nn.Module) else model).items():
        state[name] = tensor.detach().cpu().contiguous()
        if state[name].data_ptr() in seen:  # weights that two layers share, of an encoder of one's own
            state[name] = state[name].clone()
        seen.add(state[name].data_ptr())
    data = safetensors.torch.save(state, metadata={"format": "pt", METADATA_KEY: lineage.dump()})
    # safetensors writes its metadata in a random order: the same weights are to be the same bytes.
    size = int.from_bytes(data[:_LENGTH_BYTES], "little")
    header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)  # tensors stay aligned
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + data[_LENGTH_BYTES + size :]


def first_line(error: Exception) -> str:
    """The first sentence of another library's error message, without its advice."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0][:200]
    return f"{type(error).__name__} {text}" if isinstance(error, LookupError) else text


def _locate(source: str | Path) -> tuple[Path, str]:
    """File with the weights, and its name in errors."""
    if "://" in str(source):  # not repeated: an address may contain a password
        scheme = str(source).partition("://")[0][:20]
        raise WeightsError(
            f"{scheme}://...: found an address, expected a file, a folder or a hub id such as owner/name"
        )
    path = Path(source)
    if path.is_file():
        return path, str(path)
    if path.is_dir():
        path = classifier_folder(path)
        found = [path / name for name in _NAMES if (path / name).is_file()]
        if not found:
            raise WeightsError(_describe_no_weights(path))
        return found[0], str(found[0])
    if _HUB_ID.fullmatch(str(source)):
        return _download(str(source))
    raise WeightsError(f"{source}: found no such file, expected a checkpoint, a folder or a hub id such as owner/name")


def _describe_no_weights(folder: Path) -> str:
    """What a folder without weights is."""
    settings = _settings(folder / WEIGHTS_FILE)
    if {"config", "identity"} <= settings.keys():
        return f"{folder}: found a run that is not finished, expected a classifier; run the same training again"
    patterns = (f"{above}{kind}-*" for above in ("", "*/", "*/*/") for kind in ("fold", "test"))
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_dir()}
    if found:
        names = shorten_list(sorted(str(path.relative_to(folder)) for path in found))
        return f"{folder}: found a folder that holds runs: {names}; choose one"
    return f"{folder}: found none of {', '.join(_NAMES)}, expected one; or name the file itself"


def _download(hub_id: str) -> tuple[Path, str]:
    """Weights of a model on the hub, in the cache of the hub library, with the configuration in the same folder."""
    try:
        from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache  # needed only for hub ids
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise WeightsError(f"{hub_id}: found no such file or folder; for the hub, {install_command('hub')}") from error
    try:
        if not constants.HF_HUB_OFFLINE:
            require_reachable(f"{hub_id}: found no such file or folder", constants.ENDPOINT, Event())
    except UnreachableError as error:  # the library would retry for a minute
        for name in _NAMES:
            with suppress(ValueError):  # a name that the hub does not allow
                cached = [try_to_load_from_cache(hub_id, each) for each in (MODEL_CONFIG_FILE, name)]
                if all(isinstance(path, str) for path in cached):
                    return Path(cached[1]), f"{hub_id}/{name}"
        raise WeightsError(f"{error}, or set WEIGHTS=/path to a folder with these weights") from error
    for name in _NAMES:
        try:
            hf_hub_download(hub_id, MODEL_CONFIG_FILE)
            return Path(hf_hub_download(hub_id, name)), f"{hub_id}/{name}"
        except (EntryNotFoundError, OSError, ValueError) as error:  # no such file, model, network or name
            problem = error
    raise WeightsError(
        f"{hub_id}: found no such file or folder, and on the hub no {MODEL_CONFIG_FILE} with {' or '.join(_NAMES)} "
        f"({first_line(problem)}); check the name and the network"
    ) from problem


def _settings(path: Path) -> dict[str, Any]:
    """`config.json` in the folder of weights that have a usual name, else {}."""
    config = path.parent / MODEL_CONFIG_FILE
    if path.name not in _NAMES or not config.is_file():
        return {}
    if config.stat().st_size > _MAX_CONFIG_BYTES:
        raise WeightsError(f"{config}: found more than {_MAX_CONFIG_BYTES} bytes, expected a model's configuration")
    try:
        settings = json.loads(config.read_bytes())
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{config}: found no JSON ({first_line(error)}); get the file again") from error
    if not isinstance(settings, dict):
        raise WeightsError(f"{config}: found {type(settings).__name__}, expected a JSON object")
    return settings


def _read(path: Path) -> object:
    """Content of a checkpoint file."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        check_checkpoint(path)
        # Official checkpoints keep their settings in an argparse.Namespace. Allowing it is safe: it is a container of
        # attributes, and creating one runs no code from the file and makes none callable.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive(path))  # noqa: TID251
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:  # torch's restricted unpickler names what it refuses
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = "not a checkpoint, or one with more than tensors in it; expected a state dict; get the file again"
        if found:
            reason = (
                f"refused because it refers to {found[1]}, which could run code; expected only tensors. If you trust "
                "its author, load it yourself once and save the state dict with safetensors.torch.save_file"
            )
        raise WeightsError(f"{path}: {reason}") from error
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError) as error:
        raise WeightsError(f"{path}: found no complete checkpoint ({first_line(error)}); get the file again") from error


def _metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file that was read before; {} for another kind of file."""
    if path.suffix != ".safetensors":
        return {}
    with safetensors.safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def _state_dict(content: object, where: str, *, integers: bool) -> dict[str, Tensor]:
    """The checkpoint's tensors, without the dict they may be wrapped in."""
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping):
        raise WeightsError(f"{where}: found {type(content).__name__}, expected a state dict")
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, Tensor) and _plain(value, integers)):
            raise WeightsError(
                f"{where}: {str(key)[:80]}: found {type(value).__name__}, expected dense floating-point tensors, "
                f"at the top or in one of {', '.join(_WRAPPERS)}"
            )
    return dict(content)


def _plain(tensor: Tensor, integers: bool) -> bool:
    """Whether it is dense, floating-point unless integers may be, and no larger than its part of the file."""
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and (integers or tensor.is_floating_point())
    return dense and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
