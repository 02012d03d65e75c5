"""HEST-Benchmark (Jaume et al., NeurIPS 2024, arXiv 2406.16192) in its own layout.

A folder per dataset, as mahmoodlab/hest-bench publishes them: ``splits/train_K.csv`` and
``splits/test_K.csv`` (sample_id, patches_path, expr_path), patches as HDF5 (``img``, ``barcode``),
expression as h5ad, and ``var_50genes.json``. The protocol: features of 224 px patches, which are
standardised, 256 principal components, ridge without intercept and with penalty
100 / (components × genes), log1p of raw counts; Pearson of each gene over all test spots of a
fold, mean over genes, then folds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ml.errors import InputError
from ml.evaluation.metrics import Floats, pearson
from ml.inference.encoder import load_encoder
from ml.inference.features import device, stop_if_asked
from ml.training.shards.layout import text_hash, written_whole

if TYPE_CHECKING:
    from ml.report import Report

PATCH_UM, COMPONENTS, SEED = 112.0, 256, 1
GENES = "var_50genes.json"
_BATCH = 32


@torch.inference_mode()
def encode(name: str, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Vectors (n, dim) of patches (n, 224, 224, 3) by a frozen encoder.

    Of an encoder that only has feature maps, the mean of its last map.

    Raises:
        InputError: those of the encoder's file.
    """
    loaded = load_encoder(name, device())
    found = []
    for at in range(0, len(patches), _BATCH):
        pixels = torch.from_numpy(patches[at : at + _BATCH]).to(loaded.device)
        images = loaded.entry.normalise(pixels.permute(0, 3, 1, 2))
        with loaded.entry.autocast(loaded.device):
            if loaded.entry.kind == "dense":
                maps = loaded.module.maps(images)  # type: ignore[operator]
                vectors = list(maps.values())[-1].mean((2, 3))
            else:
                vectors = loaded.module(images)
        found.append(vectors.float().cpu().numpy())
    return np.concatenate(found)


def linear_probe(
    x_train: NDArray[np.floating[Any]],
    y_train: NDArray[np.floating[Any]],
    x_test: NDArray[np.floating[Any]],
    y_test: NDArray[np.floating[Any]],
) -> tuple[Floats, NDArray[np.floating[Any]]]:
    """The benchmark's regression: Pearson of each gene (genes,), and what was predicted.

    A Pearson is NaN where a gene is constant among the test spots.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    count = min(COMPONENTS, x_train.shape[1], len(x_train))
    pca = PCA(n_components=count, random_state=SEED)
    pipe = Pipeline([("scaler", StandardScaler()), ("PCA", pca)])
    inputs = pipe.fit_transform(x_train).astype(np.float32)
    penalty = 100 / (count * y_train.shape[1])
    ridge = Ridge(
        solver="lsqr", alpha=penalty, random_state=SEED, fit_intercept=False, max_iter=1000
    )
    ridge.fit(inputs, y_train)
    predicted = ridge.predict(pipe.transform(x_test).astype(np.float32))
    predicted = predicted.reshape(len(x_test), -1)
    return pearson(predicted, np.asarray(y_test, np.float64)), predicted


@dataclass(frozen=True)
class Result:
    """Scores of one encoder on one dataset.

    Attributes:
        dataset: its folder's name.
        folds: mean Pearson over the genes of each fold.
        genes: gene → Pearson of each fold.
        undefined: genes and folds whose Pearson is not defined.
    """

    dataset: str
    folds: list[float]
    genes: dict[str, list[float]]
    undefined: int

    @property
    def mean(self) -> float:
        """Mean over the folds."""
        return float(np.mean(self.folds))

    @property
    def std(self) -> float:
        """Deviation over the folds."""
        return float(np.std(self.folds))


def run_hest(
    root: Path, encoder: str, out: Path, report: Report, datasets: list[str] | None = None
) -> list[Result]:
    """Run the benchmark's tasks on what is in a folder, and write its tables under `out`.

    Args:
        root: the benchmark's data folder.
        datasets: names of its folders; all by default.

    Raises:
        InputError: ``hest.no_dataset``, ``hest.layout``, ``hest.empty_fold``.
    """
    found = sorted(path.parent for path in root.glob("*/splits"))
    found = [p for p in found if datasets is None or p.name in datasets]
    if not found:
        raise InputError(
            "hest.no_dataset",
            str(root),
            "No folder in it holds splits/train_0.csv.",
            "Give the data folder of HEST-Bench (mahmoodlab/hest-bench), or a dataset's name.",
        )
    results = []
    for place, dataset in enumerate(found):
        report.stage(f"HEST-Bench {dataset.name}")
        results.append(_dataset(dataset, encoder, out / "embeddings", report))
        report.progress((place + 1) / len(found))
    _write(results, encoder, out)
    return results


def _dataset(dataset: Path, encoder: str, cache: Path, report: Report) -> Result:
    genes = _json(dataset / GENES)["genes"]
    of_genes: dict[str, list[float]] = {gene: [] for gene in genes}
    folds, undefined = [], 0
    for number in range(len(list((dataset / "splits").glob("train_*.csv")))):
        stop_if_asked(report)
        parts = [_split(dataset, f"{part}_{number}.csv") for part in ("train", "test")]
        (x_train, y_train), (x_test, y_test) = (
            _part(dataset, part, genes, encoder, cache) for part in parts
        )
        pcc, _ = linear_probe(x_train, y_train, x_test, y_test)
        told = np.isfinite(pcc)
        undefined += int((~told).sum())
        if not told.any():
            raise InputError(
                "hest.empty_fold", f"{dataset.name}, test_{number}.csv",
                "No gene varies among its test spots.", "Check the expression files of the fold.",
            )  # fmt: skip
        folds.append(float(pcc[told].mean()))
        for gene, value in zip(genes, pcc.tolist(), strict=True):
            of_genes[gene].append(value)
    return Result(dataset.name, folds, of_genes, undefined)


def _split(dataset: Path, name: str) -> pd.DataFrame:
    path = dataset / "splits" / name
    try:
        table = pd.read_csv(path, dtype=str)
        missing = {"sample_id", "patches_path", "expr_path"} - set(table.columns)
    except (OSError, ValueError) as error:
        raise _layout(path, f"It cannot be read ({error}).") from error
    if missing or not len(table):
        raise _layout(path, f"It lacks {', '.join(sorted(missing)) or 'rows'}.")
    return table


def _layout(path: Path, what: str) -> InputError:
    return InputError(
        "hest.layout", str(path), what,
        "Give the folder as HEST-Bench publishes it: splits, patches, adata, var_50genes.json.",
    )  # fmt: skip


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _layout(path, f"It cannot be read ({error}).") from error


def _part(
    dataset: Path, part: pd.DataFrame, genes: list[str], encoder: str, cache: Path
) -> tuple[NDArray[np.float32], Floats]:
    features, expression = [], []
    for sample in part.itertuples():
        patches = dataset / str(sample.patches_path)
        name = f"{encoder}/{dataset.name}/{sample.sample_id}"
        own = kept_features(cache, name, [patches], partial(_encoded, encoder, patches))
        features.append(own["features"])
        barcodes = own["barcodes"]
        expression.append(_expression(dataset / str(sample.expr_path), barcodes, genes))
    return np.concatenate(features), np.concatenate(expression)


def kept_features(
    cache: Path, name: str, made_from: list[Path], make: Callable[[], dict[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """Arrays that are made once and kept in `cache`; anew when what they are made from changes."""
    files = [f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in made_from if p.exists()]
    path = cache / f"{name}-{text_hash(json.dumps(files))[:16]}.npz"
    if not path.is_file():
        found = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part, part.open("wb") as file:
            np.savez(file, **found)  # type: ignore[arg-type]
    with np.load(path, allow_pickle=False) as kept:
        return dict(kept)


def _encoded(encoder: str, path: Path) -> dict[str, NDArray[Any]]:
    patches, barcodes = _patches(path)
    return {"features": encode(encoder, patches), "barcodes": barcodes}


def _patches(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
    import h5py

    try:
        with h5py.File(path) as file:
            name = next(key for key in ("barcode", "barcodes") if key in file)
            barcodes = np.asarray(file[name]).ravel()
            return np.asarray(file["img"], np.uint8), np.array([_text(b) for b in barcodes])
    except (OSError, KeyError, StopIteration) as error:
        raise _layout(path, "It is no HDF5 file with img and barcode.") from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _expression(path: Path, barcodes: NDArray[np.str_], genes: list[str]) -> Floats:
    import anndata

    try:
        table = anndata.read_h5ad(path)
        values = table[barcodes.tolist(), genes].X
    except (OSError, KeyError) as error:
        raise _layout(path, f"It lacks spots or genes of the benchmark ({error}).") from error
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    logged: Floats = np.log1p(np.asarray(dense, np.float64))
    return logged


def _write(results: list[Result], encoder: str, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(
        [
            {"dataset": r.dataset, f"{encoder}_mean": r.mean, f"{encoder}_std": r.std}
            for r in results
        ]
    ).to_csv(out / "dataset_results.csv")
    document = {
        "results": [
            {"dataset_name": r.dataset, "results": [
                {"encoder_name": encoder, "pearson_mean": r.mean, "pearson_std": r.std,
                 "mean_per_split": r.folds, "undefined": r.undefined}]}
            for r in results
        ],
        "average": {encoder: float(np.mean([r.mean for r in results]))},
    }  # fmt: skip
    (out / "dataset_results.json").write_text(json.dumps(document, indent=1))


def table(results: list[Result], encoder: str) -> str:
    """The benchmark's table as Markdown."""
    lines = [f"| dataset | {encoder}, Pearson (deviation over folds) |", "|---|---|"]
    lines += [f"| {r.dataset} | {r.mean:.4f} ({r.std:.4f}) |" for r in results]
    lines.append(f"| average | {np.mean([r.mean for r in results]):.4f} |")
    return "\n".join(lines)
