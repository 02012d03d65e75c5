"""The prediction on one slide, in a folder that an interrupted attempt leaves for the next."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ml.inference.annotate import NamedTypes, blocks_of, write_trust_of
from ml.inference.features import Rows, stop_if_asked
from ml.inference.memory import enough_memory, return_freed_memory
from ml.inference.pipeline import Leaving, overlapped
from ml.inference.rows import SlideRows, Target, read_json
from ml.inference.ways import Slide, Way, seen_rows
from ml.models.batches import ImageBatch
from ml.models.checkpoint import write_json
from ml.models.past import PAST
from ml.training.corpus import ImageSource
from ml.training.trust import is_declined, ood_share

if TYPE_CHECKING:
    from ml.io.layers import LayerWriter
    from ml.report import Report


@dataclass(frozen=True)
class Job:
    """What is the same for all slides of a prediction.

    Attributes:
        batch: rows that are predicted at a time.
        work: folder that survives attempts.
    """

    model: PAST
    model_sha256: str
    way: Way
    batch: int
    work: Path

    def folder(self, target: Target) -> Path:
        """The slide's own folder."""
        return self.work / "slides" / target.slide_code

    def layer(self, target: Target) -> Path:
        """Its layer, once it is complete."""
        return self.folder(target) / "layer.zarr"

    def identity(self, target: Target) -> dict[str, Any]:
        """All that the slide's prediction depends on."""
        return {**target.identity(), "model": self.model_sha256, "way": self.way}


@dataclass(frozen=True)
class Predicted:
    """A slide that is done.

    Attributes:
        n_rows: rows of the slide.
        found: description of the table that was written, None for a given one.
        share: of the rows beyond the model's density; None for a model that cannot tell.
        sums: (genes,) of predicted expression over the rows; None for a slide that is declined.
    """

    n_rows: int
    found: dict[str, Any] | None
    share: float | None
    sums: NDArray[np.float64] | None


def kept(job: Job, target: Target) -> Predicted | None:
    """What an earlier attempt found, where it finished the slide."""
    data = read_json(job.folder(target) / "done.json")
    if not data or data["identity"] != job.identity(target):
        return None
    sums = None if data["sums"] is None else np.asarray(data["sums"], np.float64)
    return Predicted(data["n_rows"], data["found"], data["share"], sums)


def predict_slide(job: Job, rows: SlideRows, report: Report) -> Predicted:
    """Image inputs of all rows into a file, then expression block by block into the layer.

    Image inputs come first because a row attends to neighbours that may lie in other tiles. They
    are in a file, so memory does not grow with the number of rows. Finished blocks of both are
    taken over from an attempt that was interrupted.

    Raises:
        InputError: ``predict.memory``, and those of the slide and the encoder.
    """
    target, folder = rows.target, job.folder(rows.target)
    identity = {**job.identity(target), "table": rows.table_sha256}
    if read_json(folder / "identity.json") != identity:
        # What is there is of another model, way, slide or table.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / "identity.json", identity)
    report.stage(f"{target.slide_code}: image features")
    slide = Slide(rows.slide, rows.xy, target.mpp)
    source = seen_rows(
        job.model, job.way, slide, folder / "images", identity, target.slide_code, report
    )
    return_freed_memory()
    share = ood_share(job.model, source)
    hashes = {"table_sha256": rows.table_sha256, "model_sha256": job.model_sha256}
    report.stage(f"{target.slide_code}: trust")
    write_trust_of(job.model, source, folder, hashes, report)
    sums = None
    if not is_declined(share):
        report.stage(f"{target.slide_code}: expression and cell types")
        sums = _expression(job, rows, source, hashes, report)
    predicted = Predicted(len(rows.xy), rows.found, share, sums)
    data = {
        "identity": job.identity(target), "n_rows": predicted.n_rows, "found": rows.found,
        "share": share, "sums": None if sums is None else sums.tolist(),
    }  # fmt: skip
    write_json(folder / "done.json", data)
    for scratch in folder.glob("images*"):
        scratch.unlink()
    return predicted


def _expression(
    job: Job, rows: SlideRows, source: ImageSource, hashes: dict[str, str], report: Report
) -> NDArray[np.float64]:
    """Writes the slide's layer and cell types; the sums (genes,) over its rows.

    A declined slide has neither: of what looks unlike the training slides no type is named.
    """
    from ml.io.layers import LayerWriter

    folder, model, where = job.folder(rows.target), job.model, rows.target.slide_code
    layer = LayerWriter(
        job.layer(rows.target),
        symbols=list(model.config.vocabulary.symbols),
        n_rows=len(rows.xy),
        work=folder / "parked",
        **hashes,
    )
    types = None if model.types is None else NamedTypes(model.types, len(rows.xy))

    def compute(some: Rows, batch: ImageBatch) -> tuple[Leaving, Leaving | None]:
        with torch.inference_mode(), enough_memory(where):
            embeddings = source.embeddings_of(batch, model)
            named = None if types is None else Leaving(types.of(embeddings[0]))
            return Leaving(model.expression(embeddings)), named

    def write(some: Rows, found: tuple[Leaving, Leaving | None]) -> None:
        values, named = found
        if types is not None and named is not None:
            types.keep(some, named.numpy())
        layer.append(values.numpy())
        source.give_back()

    with layer:
        if types is not None and layer.written:
            # An earlier attempt's types went with it: the rows that it wrote are named again.
            for block in blocks_of(np.arange(layer.written), source):
                embeddings = source.embeddings_of(source.images(block, model), model)
                types.keep(block, types.of(embeddings[0]).cpu().numpy())
        batches = _batches(layer, job.batch)
        for some in overlapped(batches, lambda some: source.images(some, model), compute, write):
            stop_if_asked(report)
            report.progress((int(some[-1]) + 1) / len(rows.xy))
    if types is not None:
        types.write(folder, hashes)
    return layer.sums


def _batches(layer: LayerWriter, size: int) -> Iterator[Rows]:
    """The rows that are left, cut at the same places whatever was done before."""
    first = layer.written
    for start in range(first, layer.n_rows, layer.block_rows):
        stop = min(start + layer.block_rows, layer.n_rows)
        for at in range(start, stop, size):
            yield np.arange(at, min(at + size, stop))


def publish(source: Path, to: Path) -> None:
    """Puts a finished folder in its place, without copying where the file system allows it."""
    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(f".{to.name}.part")
    for old in (part, to):
        shutil.rmtree(old, ignore_errors=True)
    try:
        shutil.copytree(source, part, copy_function=_link)
    except shutil.Error:
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part)
    part.replace(to)


def _link(source: str, to: str) -> None:
    Path(to).hardlink_to(source)
