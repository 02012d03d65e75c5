"""Several processes that train together, started by torchrun; one process is a group of one."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank, size: of all processes.
        local: number of this process on its machine, and of its GPU.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @classmethod
    def join(cls) -> Ranks:
        """Take part in what torchrun started; without it, alone.

        GPUs talk by NCCL, CPUs by Gloo.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        ranks = cls(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available():
            torch.cuda.set_device(ranks.local)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return ranks

    def leave(self) -> None:
        """End what `join` began."""
        if self.size > 1:
            self.barrier()
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all are here."""
        if self.size > 1:
            dist.barrier()

    def first_says(self, value: T) -> T:
        """What the first process was given; all must ask."""
        if self.size == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said)
        return said[0]

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all ranks; without gradient."""
        if self.size == 1:
            return value
        summed = value.clone()
        dist.all_reduce(summed)
        return summed

    def share(self, total: int, rank: int | None = None) -> int:
        """Rows that a rank has of a round of `total`: every row rank, rank + size, …"""
        rank = self.rank if rank is None else rank
        return max(0, -(-(total - rank) // self.size))

    def gather(self, own: Tensor, sizes: list[int]) -> Tensor:
        """Rows of all ranks, in their order; gradients flow back to the rank that they came from.

        Args:
            own: (sizes[rank], …) rows of this rank.
            sizes: rows of each rank.
        """
        if self.size == 1:
            return own
        widest = max(sizes)
        padded = own.new_zeros(widest, *own.shape[1:])
        padded = torch.cat([own, padded[len(own) :]])
        every: Tensor = _Gather.apply(padded, self)  # type: ignore[no-untyped-call]
        return torch.cat([every[rank, :size] for rank, size in enumerate(sizes)])


def end_at_once() -> NoReturn:
    """End a process of several that trained together, without taking the interpreter down.

    Gloo's threads outlive their group once a model was wrapped for it; one that lets go of a
    tensor while the interpreter ends aborts the process, although all that it had to write is
    written (PyTorch's pull request 179291 describes it).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class _Gather(torch.autograd.Function):
    """All-gather whose backward pass sums what all ranks say of each rank's rows."""

    @staticmethod
    def forward(ctx, own: Tensor, ranks: Ranks) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.ranks = ranks
        every = [torch.empty_like(own) for _ in range(ranks.size)]
        dist.all_gather(every, own.contiguous())
        return torch.stack(every)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return ctx.ranks.total(gradients[0].contiguous())[ctx.ranks.rank], None
