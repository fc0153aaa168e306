"""Encoders and strategies of one's own, by import path: `mymodule:build` is `build` in the module `mymodule`.

Only what a user names on the command line is imported, from the current folder or `sys.path`; never what a run or a
checkpoint names. Both record the path and the SHA-256 of the module's file (not of what it imports in turn), so that a
run is neither resumed nor used with other code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import torch
from torch import Tensor

from manifests.errors import UserError
from manifests.schema import FRAMES
from manifests.text import one_line
from train.fusion import STRATEGIES, FusionError, FusionInput, Strategy, register_strategy

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


class OwnCodeError(UserError):
    """Code that a user named cannot be used."""


@dataclass(frozen=True, kw_only=True)
class OwnCode:
    """An object of a module of the user's own."""

    path: str
    """As it was named: `mymodule:build`."""
    file: str
    sha256: str
    """Of the module's file."""
    value: Any

    @property
    def name(self) -> str:
        """Of the object in its module."""
        return self.path.partition(":")[2]


def is_import_path(text: str) -> bool:
    """Whether a setting names code of the user's own: `module:name`, `package.module:name`."""
    return _PATH.fullmatch(text) is not None


def load_code(path: str, setting: str) -> OwnCode:
    """Import the object of an import path. `setting` is for errors: `ENCODER` or `STRATEGY`.

    Raises OwnCodeError in one line for a module that is not found, or that fails, and for one without the object.
    """
    where, (module_name, _, name) = f"{setting}={path}", path.partition(":")
    if not is_import_path(path):
        raise OwnCodeError(f"{where[:120]}: expected an import path such as mymodule:{name or 'build'}")
    if not {"", str(Path.cwd())} & {*sys.path}:
        sys.path.insert(0, str(Path.cwd()))
    with_reason = f"{where}: the module {module_name} failed"
    spec = call_own(with_reason, lambda: _find_spec(module_name))
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise OwnCodeError(
            f"{where}: found no module {module_name}, expected a file {module_name.replace('.', '/')}.py in the "
            "current folder or on PYTHONPATH"
        )
    module, sha256 = call_own(with_reason, lambda: _import(module_name, spec.origin, spec.submodule_search_locations))
    if not hasattr(module, name):
        defined = ", ".join(sorted(key for key, value in vars(module).items() if callable(value) and key[0] != "_"))
        raise OwnCodeError(f"{spec.origin}: found no {name}, expected one; it has {defined[:300] or 'nothing to call'}")
    return OwnCode(path=path, file=spec.origin, sha256=sha256, value=getattr(module, name))


def check_sha256(code: OwnCode, expected: str, where: str) -> None:
    """Raise OwnCodeError, beginning with `where`, unless a module's file is the one that a run was trained with."""
    if code.sha256 != expected:
        raise OwnCodeError(
            f"{where}: was trained with another {code.path}: {code.file} has SHA-256 {code.sha256}, expected "
            f"{expected}; restore that file"
        )


def call_own(where: str, function: Callable[[], Any]) -> Any:
    """Call code of the user's own. Raises OwnCodeError in one line, beginning with `where`, for whatever it raises."""
    try:
        return function()
    except UserError:
        raise
    except Exception as error:  # the user's own code may raise anything
        frame = (traceback.extract_tb(error.__traceback__) or [None])[-1]
        place = f", {frame.filename}:{frame.lineno}" if frame else ""
        reason = one_line(str(error))[:300]
        raise OwnCodeError(f"{where} ({type(error).__name__}: {reason}{place}); --debug shows all") from error


def load_strategy(path: str) -> Strategy:
    """Import a strategy of one's own and make it known by its name, that of the object: `fuse` of `mymodule:fuse`.

    It is a `Strategy`, or a function of 16 faces and 16 spectrograms of each clip, two tensors [B, 16, 3, H, W] on the
    encoder's scale -> the frames of the video, [B, 16, 3, H, W]. Raises OwnCodeError.
    """
    code = load_code(path, "STRATEGY")
    if code.name in STRATEGIES:
        raise OwnCodeError(f"STRATEGY={path}: {code.name} is a built-in strategy; rename the function in {code.file}")
    given = code.value
    if isinstance(given, Strategy):
        frames = (FRAMES, FRAMES // 2, 0)
        if given.faces not in frames or given.windows not in frames or not (given.faces or given.windows):
            found = f"{given.faces} faces and {given.windows} windows"
            raise OwnCodeError(f"{code.file}: {code.name}: found {found}, expected 16, 8 or 0 of each, not 0 of both")
        rule = given.rule
    elif callable(given) and not isinstance(given, type):

        def rule(pairs: FusionInput) -> Tensor:
            # Copies: a function may change its input, and one channel represents three in ours.
            return code.value(pairs.faces, pairs.rgb_spectrograms.contiguous())

        given = Strategy(name=code.name, faces=FRAMES, windows=FRAMES, order=len(STRATEGIES) + 1, rule=rule)
    else:
        found = given.__name__ if isinstance(given, type) else type(given).__name__
        raise OwnCodeError(f"{code.file}: {code.name}: found {found}, expected a Strategy or a function")

    def checked(pairs: FusionInput) -> Tensor:
        video = call_own(f"STRATEGY={path}: failed on {len(pairs.keys)} clips", lambda: rule(pairs))
        side = pairs.faces.shape[-1] if given.faces else pairs.spectrograms.shape[-1]
        expected = (len(pairs.keys), FRAMES, 3, side, side)
        if not isinstance(video, Tensor) or tuple(video.shape) != expected or not video.is_floating_point():
            found = f"{video.dtype} {tuple(video.shape)}" if isinstance(video, Tensor) else type(video).__name__
            raise FusionError(f"{code.file}: {code.name}: returned {found}, expected a float tensor {expected}")
        return video

    strategy = replace(given, name=code.name, rule=checked, path=path, sha256=code.sha256)
    keys, side = ("probe",), 224
    images = (torch.zeros(1, count, 3, side, side) for count in (strategy.faces, strategy.windows))
    strategy(FusionInput(**dict(zip(("faces", "spectrograms"), images, strict=True)), keys=keys))
    register_strategy(strategy)
    return strategy


class _Loader(SourceFileLoader):
    """Compiles the file itself, never a cached version of it, and keeps the SHA-256 of what it compiled."""

    sha256 = ""

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - of SourceFileLoader
        source = self.get_data(self.path)
        self.sha256 = hashlib.sha256(source).hexdigest()
        return self.source_to_code(source, self.path)


#: Name -> module that was imported here, and the SHA-256 of its file at that time.
_imported: dict[str, tuple[ModuleType, str]] = {}


def _find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    importlib.invalidate_caches()
    if name in _imported:  # the file may have moved
        sys.modules.pop(name, None)
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:  # of a package that is not there
        return None
    finally:
        if name in _imported:
            sys.modules[name] = _imported[name][0]


def _import(name: str, file: str, submodules: list[str] | None) -> tuple[ModuleType, str]:
    """A module and the SHA-256 of its file; imported again if the file has changed."""
    sha256 = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    module, known = _imported.get(name, (sys.modules.get(name), sha256))
    if module is not None and known == sha256 and getattr(module, "__file__", None) == file:
        return module, sha256
    loader = _Loader(name, file)
    spec = importlib.util.spec_from_file_location(name, file, loader=loader, submodule_search_locations=submodules)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        _imported.pop(name, None)
        raise
    _imported[name] = module, loader.sha256
    return module, loader.sha256
