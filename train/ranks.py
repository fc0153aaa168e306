"""The processes that train together, as `torchrun` started them; one alone where it did not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from train.config import ConfigError, device_for


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """One of `count` processes."""

    rank: int = 0
    count: int = 1
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and talks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place, the same on each."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether a flag is up on any rank."""
        return flag if self.count == 1 else bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def joined(device_name: str) -> Iterator[Ranks]:
    """Take part with the other processes that `torchrun` tells of in the environment, until the end of the block.

    Raises ConfigError for an environment that is not one of `torchrun`, or a device that is not there.
    """
    count = _number("WORLD_SIZE", 1)
    device = device_for(device_name, _number("LOCAL_RANK", 0))
    if count == 1:
        yield Ranks(device=device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(rank=_number("RANK", 0), count=count, device=device)
    finally:
        distributed.destroy_process_group()


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise ConfigError(f"environment: found {variable}={text!r}, expected a number, as torchrun sets it")
    return int(text)
