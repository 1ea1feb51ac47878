"""The processes that train together, as ``torchrun`` starts them; one alone without it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

__all__ = ["Processes", "joined"]


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Args:
        rank: its number; 0 writes and prints.
        count: how many there are.
        local: how many there are on this machine.
        device: that it trains on.
    """

    rank: int
    count: int
    local: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def add(self, values: Tensor) -> Tensor:
        """Sum over the processes, in place."""
        if self.count > 1:
            try:
                distributed.all_reduce(values)
            except RuntimeError as error:
                raise ConnectionError(f"another process has ended: {error}") from error
        return values

    def add_all(self, tensors: Sequence[Tensor]) -> None:
        """The same for several tensors at once, as one.

        Not by DistributedDataParallel: it sends gradients in an order of its own, which changes after the first step,
        and with it the order of sums over three processes or more, so that a resumed run would end otherwise than an
        unbroken one. What it would save, sending while gradients are still computed, is little: 24 MB a step.
        """
        if self.count > 1:
            together = self.add(torch.cat([tensor.flatten() for tensor in tensors]))
            parts = torch.split(together, [tensor.numel() for tensor in tensors])
            for tensor, summed in zip(tensors, parts, strict=True):
                tensor.copy_(summed.view(tensor.shape))

    def wait(self) -> None:
        """Until all of them are here."""
        self.add(torch.zeros((), device=self.device)).item()


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Meet the other processes, if there are any.

    Args:
        device: ``cpu`` (they talk by gloo) or ``cuda`` (by nccl; one process a GPU).

    Raises:
        ValueError: there is no such device, or fewer than processes.
    """
    rank, count, local_rank, local = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
    )
    place = torch.device(device)
    if place.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if local_rank >= found:
            raise ValueError(f"device: {local} process(es) here need as many CUDA devices, this torch finds {found}")
        place = torch.device("cuda", local_rank)
        torch.cuda.set_device(place)
    if count == 1:
        yield Processes(0, 1, 1, place)
        return
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Processes(rank, count, local, place)
    finally:
        distributed.destroy_process_group()
