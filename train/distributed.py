"""Processes that train together, as `torchrun` started them, or a single one; and the signals that stop them."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

import torch
from torch import Tensor, distributed
from torch.nn import functional

from train.config import ConfigError, device_for


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among `world_size` processes."""

    rank: int = 0
    world_size: int = 1
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place, the same on each."""
        if self.world_size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def gather(self, rows: Tensor, most: int) -> Tensor:
        """[n, D] of this rank -> those of all ranks, one after another, with gradients.

        Of several ranks each has `most` rows there, the last of which are zeros where it has fewer.
        """
        if self.world_size == 1:
            return rows
        parts = [rows.new_zeros(most, rows.shape[1]) for _ in range(self.world_size)]
        parts[self.rank] = functional.pad(rows, (0, 0, 0, most - len(rows)))
        return _SumOfRanks.apply(torch.cat(parts))

    def any(self, flag: bool) -> bool:
        """Whether a flag is set on any rank."""
        return flag if self.world_size == 1 else bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            distributed.barrier()


class _SumOfRanks(torch.autograd.Function):
    """Sum of a tensor over ranks; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004 - nothing is kept
        """Any shape, the same on all ranks."""
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        """As forward."""
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


@contextmanager
def init_distributed(device_name: str) -> Iterator[Ranks]:
    """Join the process group that `torchrun` describes in the environment, for the duration of the block.

    What holds the group, such as a DistributedDataParallel model, must not outlive the block: the group's threads end
    with its last reference, and one that runs when the interpreter ends can abort the process.

    Raises ConfigError for an environment that `torchrun` did not set, or a device that is not available.
    """
    numbers = {"WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0}
    for variable, default in numbers.items():
        text = os.environ.get(variable, str(default))
        if not text.isdecimal():
            raise ConfigError(f"environment: found {variable}={text!r}, expected a number, as torchrun sets it")
        numbers[variable] = int(text)
    device = device_for(device_name, numbers["LOCAL_RANK"])
    if numbers["WORLD_SIZE"] == 1:
        yield Ranks(device=device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Its functions have the current group as a default value: imported later, it would hold the group for ever.
    importlib.import_module("torch.distributed.nn")
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(rank=numbers["RANK"], world_size=numbers["WORLD_SIZE"], device=device)
    finally:
        gc.collect()  # models are in reference cycles
        distributed.destroy_process_group()


@contextmanager
def interrupt_on_signal() -> Iterator[None]:
    """Turn SIGTERM or SIGHUP into a KeyboardInterrupt, so that temporary files are removed; later ones are ignored.

    Only the main thread can; in others nothing is changed.
    """
    numbers = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        numbers = []

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(f"stopped by {signal.Signals(number).name}")

    for each in numbers:
        signal.signal(each, interrupt)
    try:
        yield
    finally:
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)


@contextmanager
def stop_on_signal(on_signal: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a request to stop after the current step; a second Ctrl-C interrupts at once."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        on_signal()

    for number in before:
        signal.signal(number, handle)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
