"""Inference: rows given or found, seams, layers and patients, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from ml.errors import InputError
from ml.inference import shared
from ml.inference.features import device
from ml.inference.run import run
from ml.inference.shared import tiles
from ml.inference.ways import Slide, row_images
from ml.io.celltable import CellTable
from ml.io.layers import Layer
from ml.io.slides import open_slide
from ml.io.store import content_hash
from ml.models import checkpoint
from ml.models.features import Scale, default_spec
from ml.segmentation import nuclei
from ml.segmentation.tissue import spot_grid, tissue_mask
from tests.ml.conftest import Recorder


def job(tiny, trained, slides, *, with_tables=False):
    folder, model = tiny["folder"], trained["out"] / "model"
    return {
        "model": str(model),
        "model_sha256": content_hash(model)[0],
        "slides": [
            {
                "slide": str(folder / s["file"]),
                "slide_code": s["code"],
                "patient": s["patient"],
                "mpp": s["info"]["mpp"],
                "table": str(folder / s["cells"]["path"]) if with_tables else None,
                "table_sha256": content_hash(folder / s["cells"]["path"])[0]
                if with_tables
                else None,
            }
            for s in slides
        ],
    }


@pytest.fixture(scope="module")
def unmeasured(tiny):
    return [s for s in tiny["slides"] if not s["cells"] and s["stain"] == "H&E"][:2]


@pytest.fixture(scope="module")
def predicted(tiny, trained, unmeasured, tmp_path_factory):
    out = tmp_path_factory.mktemp("predicted")
    return out, run({}, job(tiny, trained, unmeasured), out, Recorder())


def test_rows_are_found_and_every_gene_predicted(predicted, unmeasured, trained):
    out, result = predicted
    for found, slide in zip(result["slides"], unmeasured, strict=True):
        table = CellTable.open(out / found["table"]["path"])
        assert found["table"]["source"] == "nuclei:classical" and table.n_genes == 0
        xy = table.xy()
        assert (xy >= 0).all() and (xy < [slide["info"]["width"], slide["info"]["height"]]).all()
        layer = Layer.open(out / found["layer"])
        assert layer.n_rows == table.n_rows == found["n_rows"] > 20
        assert layer.symbols == list(
            checkpoint.load(trained["out"] / "model").config.vocabulary.symbols
        )
        assert layer.table_sha256 == content_hash(out / found["table"]["path"])[0]
        assert layer.model_sha256 == content_hash(trained["out"] / "model")[0]
        values = layer.gene("EPCAM")
        assert (values >= 0).all() and values.std() > 0


def test_patients_are_means_over_their_rows(predicted):
    out, result = predicted
    frame = pd.read_parquet(out / result["patient_table"]["path"])
    assert frame.index.name == "patient"
    for found in result["slides"]:
        layer = Layer.open(out / found["layer"])
        patient = found["slide_code"].split("-")[0]
        # The layer is quantised to 255 steps of the gene's range; its mean is close.
        assert frame.loc[patient, "CD3D"] == pytest.approx(layer.gene("CD3D").mean(), abs=0.02)


def test_given_rows_keep_their_order_and_agree_with_the_evaluation(tiny, trained, tmp_path):
    parts = {p["code"]: p["part"] for p in tiny["patients"]}
    tests = [s for s in tiny["slides"] if s["cells"] and parts[s["patient"]] == "test"]
    result = run({"batch": 100}, job(tiny, trained, tests, with_tables=True), tmp_path, Recorder())
    per_slide = []
    for slide, found in zip(tests, result["slides"], strict=True):
        assert found["table"] is None
        table = CellTable.open(tiny["folder"] / slide["cells"]["path"])
        layer = Layer.open(tmp_path / found["layer"])
        assert layer.n_rows == table.n_rows
        per_slide.append(
            [
                np.corrcoef(layer.gene(g), table.expression(g))[0, 1]
                if layer.gene(g).std() > 0 and table.expression(g).std() > 0
                else 0.0
                for g in layer.symbols
            ]
        )
    pcc = np.mean(per_slide, axis=0)
    # Training scored the same rows with the same features; only the layer's uint8 differs.
    stated = trained["result"]["metrics"]["test"]["pcc_median"]
    assert np.median(pcc) == pytest.approx(stated, abs=0.01)
    assert not list((tmp_path / "layers").glob(".*"))


def test_batches_do_not_change_predictions(tiny, trained, unmeasured, predicted, tmp_path):
    out, result = predicted
    run({"batch": 17}, job(tiny, trained, unmeasured[:1]), tmp_path, Recorder())
    name = result["slides"][0]["layer"]
    first, second = Layer.open(out / name), Layer.open(tmp_path / name)
    for gene in ("EPCAM", "CD3D"):
        assert first.gene(gene) == pytest.approx(second.gene(gene), abs=0.01)


def test_cancelling_leaves_no_layer(tiny, trained, unmeasured, tmp_path):
    with pytest.raises(SystemExit):
        run({}, job(tiny, trained, unmeasured[:1]), tmp_path, Recorder(2))
    assert not (tmp_path / "layers").exists()


def test_a_slide_without_tissue_is_refused(tiny, trained, tmp_path):
    from ml.io.slides import write_pyramid

    white = tmp_path / "white.tif"
    write_pyramid(np.full((600, 600, 3), 245, np.uint8), white, mpp=0.5, mpp_source="given")
    inputs = job(tiny, trained, [])
    inputs["slides"] = [
        {"slide": str(white), "slide_code": "W", "patient": "P", "mpp": 0.5, "table": None}
    ]
    with pytest.raises(InputError) as caught:
        run({}, inputs, tmp_path / "out", Recorder())
    assert caught.value.code == "predict.no_rows" and "W" in caught.value.where


def test_every_row_is_in_one_tile_and_clear_of_its_border():
    xy = np.random.default_rng(0).uniform(0, 9000, (500, 2)).astype(np.float32)
    scale = Scale(0.5, {"stain": (112.0,)})
    seen = []
    for rows, (x, y, width, height) in tiles(xy, 0.25, scale, core=1024):
        seen.extend(rows)
        points = xy[rows].astype(float) * 0.5
        assert (points - [x, y] >= scale.margin).all()
        assert ([x + width, y + height] - points >= scale.margin).all()
        assert width % 32 == 0 and height % 32 == 0
    assert sorted(seen) == list(range(500))


def test_features_hardly_depend_on_the_tiling(tiny, trained, tmp_path, monkeypatch):
    slide_info = next(s for s in tiny["slides"] if s["code"].endswith("section") and s["cells"])
    xy = CellTable.open(tiny["folder"] / slide_info["cells"]["path"]).xy()[::8]
    slide = Slide(open_slide(tiny["folder"] / slide_info["file"]), xy, 0.5)
    config = checkpoint.load(trained["out"] / "model").config
    spec = default_spec("cell", None)
    assert config.features == spec

    def features(name):
        found = row_images(slide, config, device(), tmp_path / name, "slide", Recorder())
        return np.asarray(found, float)

    whole = features("a")
    monkeypatch.setattr(shared, "CORE", 384)
    cut = features("b")
    stain = spec.columns("stain")
    assert np.abs(cut[:, stain] - whole[:, stain]).max() < 0.02
    spread = whole.std(0) > 1e-3
    agreement = [np.corrcoef(whole[:, i], cut[:, i])[0, 1] for i in np.flatnonzero(spread)]
    assert np.median(agreement) > 0.97


def test_nuclei_are_found_where_they_were_drawn(tiny, generated):
    from scipy.spatial import cKDTree

    measured = [s for s in tiny["slides"] if s["cells"]]
    for slide in (measured[0], max(measured, key=lambda s: s["cells"]["n_rows"])):
        truth = CellTable.open(tiny["folder"] / slide["cells"]["path"]).xy()
        reader = open_slide(tiny["folder"] / slide["file"])
        found = nuclei.detect_nuclei(reader, 0.5, Recorder())
        recall = (cKDTree(found).query(truth)[0] < 10).mean()
        precision = (cKDTree(truth).query(found)[0] < 10).mean()
        assert recall > 0.85 and precision > 0.85


def test_seams_count_no_nucleus_twice(tiny, monkeypatch):
    slide = max((s for s in tiny["slides"] if s["cells"]), key=lambda s: s["cells"]["n_rows"])
    reader = open_slide(tiny["folder"] / slide["file"])
    whole = nuclei.detect_nuclei(reader, 0.5, Recorder())
    monkeypatch.setattr(nuclei, "TILE", 192)
    cut = nuclei.detect_nuclei(reader, 0.5, Recorder())
    assert len(cut) == pytest.approx(len(whole), rel=0.03)
    from scipy.spatial import cKDTree

    assert (cKDTree(whole).query(cut)[0] < 2).mean() > 0.97
    assert not cKDTree(cut).query_pairs(4.0)


def test_spots_lie_on_tissue_at_their_pitch(tiny):
    slide = tiny["slides"][0]
    reader = open_slide(tiny["folder"] / slide["file"])
    xy = spot_grid(reader, 0.5, 40.0)
    mask = tissue_mask(reader, 0.5)
    assert len(xy) > 3
    assert mask[(xy[:, 1] * 0.5 / 8).astype(int), (xy[:, 0] * 0.5 / 8).astype(int)].all()
    distance = np.abs(xy[1:] - xy[:-1]).max(1)
    assert np.isclose(distance[distance > 0].min(), 80.0)
