"""HESCAPE (Gindra et al., arXiv 2508.01490) in its own layout: retrieval of pairs both ways.

A data set as its owners publish it (Hugging Face ``save_to_disk``: ``dataset_info.json``,
``state.json`` and Arrow streams) with the columns image, gexp and name, and a folder with
``train.csv``, ``val.csv`` and ``test.csv`` whose ``id`` column lists names. The task: a projection
of a frozen image encoder and an MLP of the expression meet by InfoNCE on the training names;
recall at 1, 5 and 10 among batches of 256 of the test names, both ways.
"""

from __future__ import annotations

import io
import json
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ml.errors import InputError
from ml.evaluation.benchmarks.hest import encode, kept_features
from ml.evaluation.retrieval import ranks
from ml.inference.features import stop_if_asked
from ml.models.heads import Projection

if TYPE_CHECKING:
    from ml.report import Report

BATCH, AT, PROJECT = 256, (1, 5, 10), 128
EPOCHS, PATIENCE, LEARNING_RATE, TEMPERATURE = 60, 8, 1e-3, 0.07
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Pairs:
    """Images and expression of one part.

    Attributes:
        features: (n, dim) of the frozen encoder.
        expression: (n, genes) log1p of counts scaled to the training part's median total.
    """

    features: NDArray[np.float32]
    expression: NDArray[np.float32]


def run_hescape(
    dataset: Path, splits: Path, encoder: str, out: Path, report: Report, seed: int = 0
) -> dict[str, float]:
    """Run the benchmark's retrieval on one data set, and write ``hescape.json`` under `out`.

    Returns:
        image_to_gene_rK, gene_to_image_rK and chance_rK for K of 1, 5 and 10, pairs of each part
        and the epoch that was kept.

    Raises:
        InputError: ``hescape.layout``, ``hescape.empty_part``, ``hescape.parts_overlap``.
    """
    rows = _read(dataset)
    parts = _parts(splits, rows["name"], dataset)
    report.stage("Image features")
    made_from = [*sorted(dataset.glob("*.arrow")), *(splits / f"{part}.csv" for part in PARTS)]
    pairs = _pairs(rows, parts, encoder, out / "embeddings", dataset.name, made_from, report)
    report.stage("Contrast")
    net, epoch = _train(pairs, report, seed)
    found = recall(*_embedded(net, pairs["test"])) | {
        f"{part}_pairs": float(len(pairs[part].features)) for part in PARTS
    }
    found["epoch"] = float(epoch)
    out.mkdir(parents=True, exist_ok=True)
    document = {"dataset": dataset.name, "encoder": encoder, **found}
    (out / "hescape.json").write_text(json.dumps(document, indent=1))
    return found


def _layout(path: Path, what: str) -> InputError:
    return InputError(
        "hescape.layout", str(path), what,
        "Give a data set as published, and the folder with train.csv, val.csv and test.csv.",
    )  # fmt: skip


def _read(dataset: Path) -> dict[str, Any]:
    """Columns of the Arrow streams: name (strings), gexp (n, genes), image (encoded bytes)."""
    import pyarrow

    try:
        info = json.loads((dataset / "dataset_info.json").read_text())
        state = json.loads((dataset / "state.json").read_text())
        tables = []
        for file in state["_data_files"]:
            with pyarrow.memory_map(str(dataset / file["filename"])) as source:
                tables.append(pyarrow.ipc.open_stream(source).read_all())
        table = pyarrow.concat_tables(tables).select(["name", "gexp", "image"])
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise _layout(dataset, f"It cannot be read as a saved data set ({error}).") from error
    names = table["name"].to_numpy(zero_copy_only=False)
    labels = info.get("features", {}).get("name", {}).get("names")
    if labels:  # names are stored as numbers of a class label
        names = np.array(labels)[names.astype(np.int64)]
    expression = np.array(
        [np.asarray(row, np.float32).ravel() for row in table["gexp"].to_pylist()]
    )
    return {"name": names.astype(str), "gexp": expression, "image": table["image"]}


def _parts(splits: Path, names: NDArray[np.str_], dataset: Path) -> dict[str, NDArray[np.int64]]:
    found: dict[str, NDArray[np.int64]] = {}
    seen: dict[str, str] = {}
    for part in PARTS:
        path = splits / f"{part}.csv"
        try:
            listed = set(pd.read_csv(path, dtype=str)["id"])
        except (OSError, ValueError, KeyError) as error:
            raise _layout(path, f"It has no column id that can be read ({error}).") from error
        for name in listed:
            if seen.setdefault(name, part) != part:
                raise InputError(
                    "hescape.parts_overlap", f"sample {name}",
                    f"It is in {seen[name]}.csv and in {part}.csv.", "List it in one of them.",
                )  # fmt: skip
        found[part] = np.flatnonzero(np.isin(names, list(listed)))
        if len(found[part]) < 2:
            raise InputError(
                "hescape.empty_part", str(path),
                f"{len(found[part])} pairs of {dataset.name} are in it.",
                "List names that the data set has.",
            )  # fmt: skip
    return found


def _pairs(
    rows: dict[str, Any], parts: dict[str, NDArray[np.int64]], encoder: str, cache: Path,
    name: str, made_from: list[Path], report: Report,
) -> dict[str, Pairs]:  # fmt: skip
    totals = rows["gexp"].sum(1, keepdims=True)
    typical = float(np.median(totals[parts["train"]][totals[parts["train"]] > 0]))
    expression = np.log1p(rows["gexp"] / np.maximum(totals, 1.0) * typical).astype(np.float32)
    found = {}
    for place, (part, own) in enumerate(parts.items()):
        made = partial(_encoded, rows["image"], own, encoder, report)
        kept = kept_features(cache, f"{encoder}/{name}/{part}", made_from, made)
        found[part] = Pairs(kept["features"], expression[own])
        report.progress((place + 1) / len(parts))
    return found


def _encoded(
    images: Any, own: NDArray[np.int64], encoder: str, report: Report
) -> dict[str, NDArray[Any]]:
    blocks = []
    for at in range(0, len(own), BATCH):
        stop_if_asked(report)
        some = [_image(images[int(i)].as_py()) for i in own[at : at + BATCH]]
        blocks.append(encode(encoder, np.stack(some)))
    return {"features": np.concatenate(blocks)}


def _image(held: Any) -> NDArray[np.uint8]:
    """The middle square of an encoded image, up to 512 px, at 224 px."""
    from PIL import Image

    data = held["bytes"] if isinstance(held, dict) else held
    image = Image.open(io.BytesIO(data)).convert("RGB")
    side = min(512, *image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC, box=box))


class _Net(nn.Module):
    seen_mean: Tensor
    seen_scale: Tensor
    counted_mean: Tensor
    counted_scale: Tensor

    def __init__(self, pairs: Pairs) -> None:
        super().__init__()
        self.image = Projection(pairs.features.shape[1], PROJECT)
        self.expression = Projection(pairs.expression.shape[1], PROJECT)
        for name, values in (("seen", pairs.features), ("counted", pairs.expression)):
            spread = np.maximum(values.std(0), 1e-4)
            self.register_buffer(f"{name}_mean", torch.from_numpy(values.mean(0)))
            self.register_buffer(f"{name}_scale", torch.from_numpy(spread))

    def forward(self, features: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        image = self.image((features - self.seen_mean) / self.seen_scale)
        return image, self.expression((expression - self.counted_mean) / self.counted_scale)


def _train(pairs: dict[str, Pairs], report: Report, seed: int) -> tuple[_Net, int]:
    """Stops when the validation part's recall at 5 has not risen for `PATIENCE` epochs."""
    torch.manual_seed(seed)
    train = pairs["train"]
    net = _Net(train)
    features, expression = (torch.from_numpy(v) for v in (train.features, train.expression))
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    best, kept, weights = -1.0, 0, net.state_dict()
    for epoch in range(1, EPOCHS + 1):
        stop_if_asked(report)
        net.train()
        for some in torch.split(torch.randperm(len(features)), BATCH):
            if len(some) < 2:
                continue
            image, cell = net(features[some], expression[some])
            logits, own = image @ cell.T / TEMPERATURE, torch.arange(len(some))
            loss = functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        scores = recall(*_embedded(net, pairs["val"]))
        reached = (scores["image_to_gene_r5"] + scores["gene_to_image_r5"]) / 2
        report.metric("validation_recall_at_5", reached, step=epoch)
        if reached > best:
            best, kept, weights = reached, epoch, deepcopy(net.state_dict())
        if epoch - kept >= PATIENCE:
            break
    net.load_state_dict(weights)
    return net, kept


@torch.no_grad()
def _embedded(net: _Net, pairs: Pairs) -> tuple[Tensor, Tensor]:
    net.eval()
    found: tuple[Tensor, Tensor] = net(
        torch.from_numpy(pairs.features), torch.from_numpy(pairs.expression)
    )
    return found


def recall(image: Tensor, cell: Tensor) -> dict[str, float]:
    """Recall of pairs (n, dim) of unit vectors among batches of `BATCH` in their order."""
    forward, backward, sizes = [], [], []
    for some in torch.split(torch.arange(len(image)), BATCH):
        one, other = ranks(image[some], cell[some])
        forward.append(one)
        backward.append(other)
        sizes.append(len(some))
    found: dict[str, float] = {}
    for at in AT:
        found[f"image_to_gene_r{at}"] = float((torch.cat(forward) < at).double().mean())
        found[f"gene_to_image_r{at}"] = float((torch.cat(backward) < at).double().mean())
        found[f"chance_r{at}"] = sum(min(at, n) for n in sizes) / sum(sizes)
    return found


def table(found: dict[str, float], dataset: str, encoder: str) -> str:
    """The benchmark's table as Markdown."""
    lines = [
        f"| {dataset}, mlp-{encoder} | image→gene | gene→image | chance |", "|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| R@{at} | {found[f'image_to_gene_r{at}']:.3f} | {found[f'gene_to_image_r{at}']:.3f} | "
        f"{found[f'chance_r{at}']:.3f} |"
        for at in AT
    ]
    return "\n".join(lines)
