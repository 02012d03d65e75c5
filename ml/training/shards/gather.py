"""Batches: cells from any shards with their tokens, counts, neighbours and crops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from ml.tokens.vocabulary import FIRST_GENE, PAD
from ml.training.shards.layout import CELL_PIXELS, CONTEXT_PIXELS
from ml.training.shards.reader import Corpus, Shard

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CorpusBatch:
    """b cells. Ids number what `Manifest.slides` and `Manifest.ids()` name.

    Attributes:
        tokens: (b, L) int32, by rank, padded with ``PAD``; L is the longest of the batch.
        neighbour_tokens: (b, k, M) int32 of the nearest cells, likewise.
        neighbour_distance: (b, k) float32 µm.
        neighbour_absent: (b, k) bool, where there is no such neighbour.
        count_starts, count_genes, count_values: raw counts of all genes as CSR, (b + 1) int64,
            positions in the vocabulary int32 and counts int32; not cut off as tokens are.
        xy_um: (b, 2) float32.
        shard, row: (b,) int64, the shard and the row of the slide's cell table.
        slide, patient, site, technology: (b,) int64.
        context, cell: (b, 224, 224, 3) and (b, 112, 112, 3) uint8, None without crops.
    """

    tokens: Tensor
    neighbour_tokens: Tensor
    neighbour_distance: Tensor
    neighbour_absent: Tensor
    count_starts: Tensor
    count_genes: Tensor
    count_values: Tensor
    xy_um: Tensor
    shard: Tensor
    row: Tensor
    slide: Tensor
    patient: Tensor
    site: Tensor
    technology: Tensor
    context: Tensor | None = None
    cell: Tensor | None = None

    def __len__(self) -> int:
        return len(self.row)

    def pin_memory(self) -> CorpusBatch:
        """The batch in page-locked memory, which `DataLoader(pin_memory=True)` asks for."""
        there = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return CorpusBatch(**{name: tensor.pin_memory() for name, tensor in there.items()})


class Gatherer:
    """Gathers batches from a corpus.

    Args:
        context: tokens kept per cell.
        crops: whether to read crops.
    """

    def __init__(self, corpus: Corpus, context: int, crops: bool) -> None:
        self._corpus, self._context, self._crops = corpus, context, crops
        self._of_slide = _ids_of_slides(corpus)

    def lengths(self, shards: Ints, rows: Ints) -> Ints:
        """Tokens that cells keep."""
        lengths = np.empty(len(rows), np.int64)
        for shard, place in self._by_shard(shards):
            lengths[place] = shard.lengths(rows[place])
        return np.minimum(lengths, self._context)

    def batch(self, shards: Ints, rows: Ints) -> CorpusBatch:
        """The cells at these rows of these shards, in this order.

        Raises:
            InputError: ``corpus.damaged_shard``.
        """
        b, k = len(rows), self._corpus.manifest.settings.neighbours
        own, near, counted = _Ragged(b), _Ragged(b * k), _Ragged(b)
        distance, absent = np.empty((b, k), np.float32), np.empty((b, k), bool)
        xy_um, table_row = np.empty((b, 2), np.float32), np.empty(b, np.int64)
        counts = []
        for shard, place in self._by_shard(shards):
            here = rows[place]
            lengths = shard.lengths(here)
            flat = shard.places(here, lengths)
            counted.add(place, shard.ids[flat], lengths)
            counts.append(shard.counts[flat])
            self._add_tokens(own, shard, place, here)
            neighbours = shard.arrays["neighbours"][here].astype(np.int64)
            slots = (place[:, None] * k + np.arange(k)).ravel()
            self._add_tokens(near, shard, slots, neighbours.ravel())
            distance[place] = shard.arrays["distances"][here]
            absent[place] = neighbours < 0
            xy_um[place] = shard.arrays["xy_um"][here]
            table_row[place] = shard.arrays["row"][here]
        slide = self._of_slide["slide_of_shard"][shards]
        starts, genes, values = counted.csr(np.concatenate(counts))
        arrays: dict[str, NDArray[Any]] = {
            "tokens": own.padded(),
            "neighbour_tokens": near.padded().reshape(b, k, -1),
            "neighbour_distance": distance,
            "neighbour_absent": absent,
            "count_starts": starts,
            "count_genes": genes.astype(np.int32) - FIRST_GENE,
            "count_values": values.astype(np.int32),
            "xy_um": xy_um,
            "shard": shards.astype(np.int64),
            "row": table_row,
            "slide": slide,
            **{name: self._of_slide[name][slide] for name in ("patient", "site", "technology")},
        }
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return CorpusBatch(**tensors, **(self._read_crops(shards, rows) if self._crops else {}))

    def _add_tokens(self, to: _Ragged, shard: Shard, place: Ints, rows: Ints) -> None:
        lengths = np.minimum(shard.lengths(rows), self._context)
        to.add(place, shard.ids[shard.places(rows, lengths)], lengths)

    def _read_crops(self, shards: Ints, rows: Ints) -> dict[str, Tensor]:
        images = {
            "context": _images(len(rows), CONTEXT_PIXELS), "cell": _images(len(rows), CELL_PIXELS)
        }  # fmt: skip
        context, cell = images["context"].numpy(), images["cell"].numpy()
        for shard, places in self._by_shard(shards):
            assert shard.crops is not None
            # In the order of the file: what one read fetches ahead, the next one finds.
            for i in places[np.argsort(rows[places])].tolist():
                try:
                    shard.crops.read(int(rows[i]), context[i], cell[i])
                except (OSError, ValueError) as error:
                    raise self._corpus.damaged(int(shards[i]), f"Its crops: {error}.") from error
        return images

    def _by_shard(self, shards: Ints) -> Iterator[tuple[Shard, Ints]]:
        """Each shard that occurs, with the places where it does."""
        order = np.argsort(shards, kind="stable")
        numbers, first = np.unique(shards[order], return_index=True)
        for number, place in zip(numbers, np.split(order, first[1:]), strict=True):
            shard = self._corpus.shard(int(number))
            yield shard, place
            # Cells of a batch hardly share pages with those of the next: to keep them mapped would
            # only let this process's memory grow with the shards it has open.
            shard.release()


def _images(count: int, side: int) -> Tensor:
    """Room for images: in a worker, in memory that it shares, so that none is copied on the way."""
    shape = (count, side, side, 3)
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(count * side * side * 3)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


class _Ragged:
    """Rows of different lengths, collected in any order."""

    def __init__(self, rows: int) -> None:
        self._lengths = np.zeros(rows, np.int64)
        self._places: list[Ints] = []
        self._values: list[NDArray[Any]] = []

    def add(self, place: Ints, values: NDArray[Any], lengths: Ints) -> None:
        """`values` holds the rows that belong at `place`, one after the other."""
        self._lengths[place] = lengths
        self._places.append(place)
        self._values.append(values)

    def padded(self) -> NDArray[np.int32]:
        """(rows, longest) int32, padded with ``PAD``."""
        longest = int(self._lengths.max(initial=1))
        out = np.full((len(self._lengths), longest), PAD, np.int32)
        begin = np.arange(len(self._lengths)) * longest
        out.reshape(-1)[self._destinations(begin)] = np.concatenate(self._values)
        return out

    def csr(self, partners: NDArray[Any]) -> tuple[Ints, NDArray[Any], NDArray[Any]]:
        """Starts (rows + 1), values, and `partners`, which were collected in the same order."""
        starts = np.concatenate([[0], np.cumsum(self._lengths)])
        to = self._destinations(starts[:-1])
        values, others = np.empty(len(to), np.int64), np.empty(len(to), np.int64)
        values[to], others[to] = np.concatenate(self._values), partners
        return starts, values, others

    def _destinations(self, begin: Ints) -> Ints:
        """Where each collected value goes, if row i begins at ``begin[i]``."""
        place = np.concatenate(self._places)
        lengths = self._lengths[place]
        ends = np.cumsum(lengths)
        return np.repeat(begin[place] - (ends - lengths), lengths) + np.arange(lengths.sum())


def _ids_of_slides(corpus: Corpus) -> dict[str, Ints]:
    """Number of the slide of each shard; of the patient, site and technology of each slide."""
    manifest = corpus.manifest
    names = {key: {n: i for i, n in enumerate(all_)} for key, all_ in manifest.ids().items()}
    return {
        "slide_of_shard": np.array([shard.slide for shard in manifest.shards], np.int64),
        "patient": np.array(
            [names["patient"][f"{s.study}/{s.patient}"] for s in manifest.slides], np.int64
        ),
        "site": np.array([names["site"][f"{s.study}/{s.site}"] for s in manifest.slides], np.int64),
        "technology": np.array(
            [names["technology"][s.technology] for s in manifest.slides], np.int64
        ),
    }
