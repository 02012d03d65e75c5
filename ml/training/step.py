"""One step of the optimiser: forward and backward over its batches, over all ranks as over one.

The contrast needs the embeddings of all rows of a step at once, whichever batch and rank they are
in. A step of one batch keeps their graph; a step of several goes through its batches twice (Gao et
al., GradCache, arXiv 2101.06983): once for the embeddings alone, whose gradient is then computed,
and once more to carry that gradient into the weights. Dropout and hidden genes are drawn from a
seed of their own for each batch, so that both passes see the same.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ml.models.heads import CropHead
from ml.models.losses import info_nce, near_pairs
from ml.models.past import LossWeights, Member, Outputs
from ml.training.distributed import Ranks
from ml.training.engine import Batch, Optimisation

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """Gradients of steps.

    Args:
        member: what is trained; what the losses do not train has no gradient.
        ranks: this process among those that train together.
        precision: dtype of autocast; None for float32 throughout.
    """

    member: Member
    network: nn.Module
    losses: LossWeights
    ranks: Ranks
    precision: torch.dtype | None

    @classmethod
    def of(cls, member: Member, losses: LossWeights, how: Optimisation, ranks: Ranks) -> Step:
        """Steps of a member whose parameters have been chosen by `requires_grad`."""
        device = next(member.parameters()).device
        cuda = device.type == "cuda"
        crops = isinstance(member.image_encoder, CropHead)
        if how.compile == "on" or (how.compile == "auto" and cuda and crops):
            member.image_encoder.compile()
        network: nn.Module = member
        if ranks.size > 1:
            network = DistributedDataParallel(member, device_ids=[device] if cuda else None)
        return cls(member, network, losses, ranks, _precision(how.precision, device))

    def gradients(self, batches: list[Batch], seeds: list[int]) -> Losses:
        """Leaves the gradient of the mean over all rows of a step in the parameters.

        Args:
            batches: this rank's part of the step.
            seeds: for what is random in each of them.

        Returns:
            losses of this rank's rows by name, weighted: a mean over the rows of the step, times
            the number of ranks, so that the mean over ranks is that over rows.
        """
        total = sum(batch.total for batch in batches)
        shares = [len(batch) * self.ranks.size / total for batch in batches]
        if len(batches) == 1 or not self.losses.contrast:
            return self._once(batches, seeds, shares)
        return self._twice(batches, seeds, shares)

    def _once(self, batches: list[Batch], seeds: list[int], shares: list[float]) -> Losses:
        found: list[Losses] = []
        for i, (batch, seed, share) in enumerate(zip(batches, seeds, shares, strict=True)):
            with self._synchronised(i == len(batches) - 1):
                outputs = self._forward(self.network, batch, seed)
                losses = {name: share * loss for name, loss in outputs.losses.items()}
                if outputs.image is not None and outputs.cell is not None:
                    losses["contrast"] = share * self._contrast(
                        outputs.image, outputs.cell, outputs.temperature, batches
                    )
                _backward(sum(losses.values(), 0 * outputs.temperature))
            found.append(losses)
        return _added(found)

    def _twice(self, batches: list[Batch], seeds: list[int], shares: list[float]) -> Losses:
        with torch.no_grad():
            first = [
                self._forward(self.member, batch, seed)
                for batch, seed in zip(batches, seeds, strict=True)
            ]
        image, cell = (_joined(outputs.image for outputs in first),
                       _joined(outputs.cell for outputs in first))  # fmt: skip
        temperature = first[0].temperature.detach().requires_grad_()
        contrast = sum(shares) * self._contrast(image, cell, temperature, batches)
        _backward(contrast)
        sizes = [len(batch) for batch in batches]
        assert image.grad is not None and cell.grad is not None and temperature.grad is not None
        parts = zip(torch.split(image.grad, sizes), torch.split(cell.grad, sizes), strict=True)
        found: list[Losses] = [{"contrast": contrast}]
        for i, (to_image, to_cell) in enumerate(parts):
            last = i == len(batches) - 1
            with self._synchronised(last):
                outputs = self._forward(self.network, batches[i], seeds[i])
                assert outputs.image is not None and outputs.cell is not None
                losses = {name: shares[i] * loss for name, loss in outputs.losses.items()}
                carried = (outputs.image * to_image).sum() + (outputs.cell * to_cell).sum()
                if last:
                    carried = carried + outputs.temperature * temperature.grad
                _backward(sum(losses.values(), carried))
            found.append(losses)
        return _added(found)

    def _forward(self, network: nn.Module, batch: Batch, seed: int) -> Outputs:
        torch.manual_seed(seed)
        device = batch.cells.tokens.device.type
        with torch.autocast(device, self.precision, enabled=self.precision is not None):
            out: Outputs = network(batch.images, batch.cells, self.losses)
        return out

    def _contrast(
        self, image: Tensor, cell: Tensor, temperature: Tensor, batches: list[Batch]
    ) -> Tensor:
        """InfoNCE of this rank's rows against those of all ranks."""
        xy = torch.cat([batch.cells.xy_um for batch in batches])
        slide = torch.cat([batch.cells.slide for batch in batches])
        sizes = [
            sum(self.ranks.share(batch.total, rank) for batch in batches)
            for rank in range(self.ranks.size)
        ]
        assert sizes[self.ranks.rank] == len(image)
        every_image, every_cell, every_xy, every_slide = (
            self.ranks.gather(rows, sizes) for rows in (image.float(), cell.float(), xy, slide)
        )
        near = near_pairs(xy, slide, self.losses.near_um, every_xy, every_slide)
        return self.losses.contrast * info_nce(
            image,
            cell,
            temperature,
            near,
            every_image=every_image,
            every_cell=every_cell,
            first=sum(sizes[: self.ranks.rank]),
            soft_targets=self.losses.soft_targets,
        )

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        """Ranks exchange gradients once a step."""
        if last or not isinstance(self.network, DistributedDataParallel):
            return nullcontext()
        return self.network.no_sync()


def _precision(wanted: str, device: torch.device) -> torch.dtype | None:
    if wanted == "bfloat16":
        return torch.bfloat16
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if wanted == "auto" and able else None


def _joined(parts: Any) -> Tensor:
    return torch.cat(list(parts)).float().requires_grad_()


def _added(parts: list[Losses]) -> Losses:
    """Losses of all batches, without their graphs."""
    names = dict.fromkeys(name for losses in parts for name in losses)
    return {
        name: torch.stack([losses[name].detach() for losses in parts if name in losses]).sum()
        for name in names
    }


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
