"""Small studies with real files behind their rows: slides, cell tables, layers, models."""

from __future__ import annotations

import csv
import io
import json
import tempfile
import zlib
from pathlib import Path

import numpy as np
from scipy import sparse

from backend.cells.models import CellTable, Layer
from backend.jobs.models import Artifact, Job
from backend.jobs.services import store_artifact
from backend.registry.models import (
    Dataset,
    DatasetTable,
    Evaluation,
    Exposure,
    ModelVersion,
    PatientColumn,
    PatientTable,
    PlantedTruth,
)
from backend.slides.models import Slide
from backend.studies.models import Patient, Specimen, Study
from ml.io.annotations import write_trust
from ml.io.celltable import panel_hash, write_cell_table
from ml.io.layers import UNIT, LayerWriter
from ml.io.slides import open_slide, write_pyramid

GENES = ["ERBB2", "ESR1", "KRT5", "CD3E"]


def add_job(study: Study, kind: str = "import", **fields) -> Job:
    return Job.objects.create(
        study=study, kind=kind, title=f"{kind} of a test", queue="cpu", **fields
    )


def add_slide(
    study: Study, code: str = "S1", *, patient: str = "P1", size: int = 300, stain: str = "H&E"
) -> Slide:
    """A slide of random tissue-like colours at 0.5 µm per pixel."""
    owner, _ = Patient.objects.get_or_create(study=study, code=patient)
    specimen, _ = Specimen.objects.get_or_create(patient=owner, code=f"{patient}-1")
    job = add_job(study, status=Job.Status.SUCCEEDED)
    rng = np.random.default_rng(zlib.crc32(f"{study.slug} {code}".encode()))
    pixels = rng.integers(90, 230, (size, size, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{code}.tif"
        write_pyramid(pixels, path, mpp=0.5, mpp_source="test")
        info = open_slide(path).info
        (Path(folder) / "t.jpg").write_bytes(open_slide(path).thumbnail(64))
        image = store_artifact(job=job, path=path, kind=Artifact.Kind.SLIDE)
        thumbnail = store_artifact(
            job=job, path=Path(folder) / "t.jpg", kind=Artifact.Kind.THUMBNAIL
        )
    return Slide.objects.create(
        study=study, specimen=specimen, code=code, stain=stain, artifact=image,
        thumbnail=thumbnail, width=info.width, height=info.height, levels=info.levels,
        tile_size=info.tile_size, mpp=0.5, mpp_source="test",
    )  # fmt: skip


def add_table(
    slide: Slide,
    counts: np.ndarray | sparse.csr_matrix | None = None,
    *,
    symbols: list[str] | None = None,
    n_rows: int = 40,
    source: str = "measured",
    row_kind: str = "cell",
    cell_types: list[str] | None = None,
) -> CellTable:
    """A cell table with these counts (rows × genes), or random ones; `symbols=[]`: positions."""
    symbols = GENES if symbols is None else symbols
    rng = np.random.default_rng(slide.pk)
    if counts is None:
        counts = rng.poisson(3, (n_rows, len(symbols)))
    n_rows = counts.shape[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.zarr"
        info = write_cell_table(
            path,
            counts=sparse.csr_matrix(counts),
            symbols=symbols,
            gene_ids=[""] * len(symbols),
            xy=rng.uniform(0, slide.width, (n_rows, 2)).astype(np.float32),
            obs_names=[f"{slide.code}-{row}" for row in range(n_rows)],
            row_kind=row_kind,
            spot_diameter_um=100.0 if row_kind == "spot" else None,
            source=source,
            cell_types=cell_types,
        )
        artifact = store_artifact(
            job=slide.study.jobs.first(), path=path, kind=Artifact.Kind.CELL_TABLE
        )
    return CellTable.objects.create(
        slide=slide, source=source, artifact=artifact, row_kind=row_kind, n_rows=n_rows,
        n_genes=len(symbols), panel_hash=info.panel_hash, spot_diameter_um=info.spot_diameter_um,
    )  # fmt: skip


def add_model(
    study: Study, tables: dict[CellTable, str], *, status: str = "candidate", **fields
) -> ModelVersion:
    """A model version trained on `tables` (table → part), with a scores table, without weights."""
    version = study.model_versions.count() + 1
    job = add_job(study, "train", status=Job.Status.SUCCEEDED)
    dataset = Dataset.objects.create(
        study=study, version=version, row_kind="cell",
        artifact=_text_artifact(
            job, json.dumps({"study": study.slug, "version": version}), Artifact.Kind.DATASET
        ),
    )  # fmt: skip
    artifact = _text_artifact(job, f"model {version} of {study.slug}", Artifact.Kind.MODEL)
    for table, part in tables.items():
        patient = table.slide.specimen.patient
        DatasetTable.objects.create(
            dataset=dataset, table=table, table_sha256=table.artifact.sha256,
            slide_sha256=table.slide.artifact.sha256, patient=patient, part=part,
        )  # fmt: skip
        Exposure.objects.get_or_create(model_artifact=artifact, patient=patient, part=part)
    model = ModelVersion.objects.create(
        study=study, version=version, artifact=artifact, dataset=dataset, job=job, row_kind="cell",
        status=status, metrics={"test": {"pcc_median": 0.1 * version}}, **fields,
    )  # fmt: skip
    Evaluation.objects.create(
        model_version=model, dataset=dataset, part="test", metrics={"pcc_median": 0.1 * version},
        artifact=_scores(job, version),
    )  # fmt: skip
    return model


def add_full_evaluation(model: ModelVersion, **metrics) -> Evaluation:
    """The full report of a model on its test part: four genes, 30 rows of one slide."""
    job = add_job(model.study, "evaluate", status=Job.Status.SUCCEEDED)
    rng = np.random.default_rng(model.pk)
    baseline = {
        "title": "ridge on the frozen encoder", "fair": True, "facts": {}, "pcc_median": 0.1,
        "pcc_q1": 0.0, "pcc_q3": 0.2, "spatial_pcc_median": 0.15, "difference": 0.1, "low": 0.05,
        "high": 0.15, "p": 0.01, "p_holm": 0.02, "verdict": "ahead",
        "test": "sign flips over patients",
    }  # fmt: skip
    found = {
        "pcc_median": 0.2, "pcc_q1": 0.1, "pcc_q3": 0.3, "pcc_low": 0.15, "pcc_high": 0.25,
        "scc_median": 0.2, "ceiling_pcc_median": 0.6, "n_rows": 30, "n_genes": 4, "n_slides": 1,
        "patients": 1, "resampled": "blocks", "genes_above_chance": 2, "problems": [], "full": True,
        "spatial": {"n": 2, "pcc_median": 0.3}, "other": {"n": 2, "pcc_median": 0.1},
        "baselines": {"frozen_ridge": baseline},
        "controls": {"permuted": {"pcc_q1": -0.01, "pcc_median": 0.0, "pcc_q3": 0.01}},
        "worst_regions": [
            {"slide": "S1", "patient": "P1", "x": 10.0, "y": 20.0, "side_um": 200.0, "n": 12,
             "error": 1.5, "usual": 1.0, "genes": GENES[:3]}
        ],
        **metrics,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "evaluation"
        maps = out / "maps" / "test"
        maps.mkdir(parents=True)
        for name in ("measured", "predicted"):
            values = rng.normal(size=(len(GENES), 30)).astype(np.float16)
            values[1, 0] = np.nan
            np.save(maps / f"{name}.npy", values)
        np.save(maps / "xy.npy", rng.uniform(0, 300, (30, 2)).astype(np.float32))
        slide = {"slide": "S1", "patient": "P1", "first": 0, "stop": 30, "of": 40, "mpp": 0.5}
        (maps / "slides.json").write_text(json.dumps([slide]))
        (maps / "genes.json").write_text(json.dumps(GENES))
        (out / "report.json").write_text("{}")
        scores = ["part,gene,pcc,pcc_low,pcc_high,scc,spatial,q,frozen_ridge_pcc"]
        scores += [f"test,{gene},0.2,0.1,0.3,0.2,1,0.01,0.1" for gene in GENES]
        (out / "per_gene.csv").write_text("\n".join(scores) + "\n")
        artifact = store_artifact(job=job, path=out, kind=Artifact.Kind.EVALUATION)
    return Evaluation.objects.create(
        model_version=model, dataset=model.dataset, part="test", metrics=found, artifact=artifact,
        job=job,
    )  # fmt: skip


def add_layer(table: CellTable, model: ModelVersion, values: np.ndarray, symbols=None) -> Layer:
    """A predicted layer of (rows × genes) float32 values, with the model's patient columns."""
    symbols = GENES if symbols is None else symbols
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.zarr"
        with LayerWriter(
            path, symbols=symbols, n_rows=len(values), unit=UNIT,
            table_sha256=table.artifact.sha256, model_sha256=model.artifact.sha256,
        ) as layer:  # fmt: skip
            layer.append(values.astype(np.float32))
        artifact = store_artifact(job=model.job, path=path, kind=Artifact.Kind.LAYER)
    patients, created = PatientTable.objects.get_or_create(
        study=model.study, source="predicted", model_artifact=model.artifact,
        defaults={"name": model.name, "unit": UNIT, "artifact": artifact, "n_patients": 1},
    )  # fmt: skip
    if created:
        PatientColumn.objects.bulk_create(PatientColumn(table=patients, name=s) for s in symbols)
    return Layer.objects.create(
        table=table, kind="expression", artifact=artifact, model_artifact=model.artifact,
        unit=UNIT, panel_hash=panel_hash(symbols),
    )  # fmt: skip


def add_trust(table: CellTable, model: ModelVersion, ood: np.ndarray) -> Layer:
    """How far the rows lie from the model's training rows, (rows,) uint8."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trust.zarr"
        write_trust(
            path, ood=ood.astype(np.uint8), threshold=4.0,
            table_sha256=table.artifact.sha256, model_sha256=model.artifact.sha256,
        )  # fmt: skip
        artifact = store_artifact(job=model.job, path=path, kind=Artifact.Kind.LAYER)
    return Layer.objects.create(
        table=table, kind="trust", artifact=artifact, model_artifact=model.artifact
    )


def add_truth(study: Study, truth: dict) -> PlantedTruth:
    """The document of what was planted, as an import brings it."""
    artifact = _text_artifact(add_job(study), json.dumps(truth), Artifact.Kind.TRUTH)
    return PlantedTruth.objects.create(study=study, artifact=artifact)


def _text_artifact(job: Job, text: str, kind: str) -> Artifact:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "content.json"
        path.write_text(text)
        return store_artifact(job=job, path=path, kind=kind)


def _scores(job: Job, version: int) -> Artifact:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["part", "gene", "pcc", "ridge_pcc"])
    rows.writerow(["validation", "ERBB2", "0.9", "0.9"])
    rows.writerows([["test", gene, 0.1 * version + 0.01 * n, ""] for n, gene in enumerate(GENES)])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "evaluation").mkdir()
        (Path(folder) / "evaluation" / "per_gene.csv").write_text(text.getvalue())
        return store_artifact(
            job=job, path=Path(folder) / "evaluation", kind=Artifact.Kind.EVALUATION
        )
