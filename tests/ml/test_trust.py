"""What a model says it cannot do: slides unlike its training images, genes it cannot tell."""

import csv

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ml.inference.run import run
from ml.io.layers import Layer
from ml.io.slides import open_slide, write_pyramid
from ml.models import checkpoint
from ml.models.density import DECLINE_ABOVE, Density, shrunk_covariance
from tests.ml.conftest import Recorder


def test_shrinkage_follows_the_rows_at_hand():
    torch.manual_seed(0)
    true = torch.diag(torch.linspace(0.5, 3.0, 20).double())
    many = torch.randn(50_000, 20).double() @ true.sqrt()
    assert torch.allclose(shrunk_covariance(many - many.mean(0)), true, atol=0.1)
    few = many[:15]
    few = few - few.mean(0)
    sample, shrunk = few.T @ few / len(few), shrunk_covariance(few)
    # Fewer rows than coordinates: the sample covariance is singular, the shrunk one is not.
    assert torch.linalg.eigvalsh(shrunk).min() > 0.01 > torch.linalg.eigvalsh(sample).min()
    assert (shrunk - true).square().sum() < (sample - true).square().sum()


@pytest.mark.parametrize("components", [6, 32])
def test_distance_is_that_of_the_rows_it_was_fitted_to(components):
    torch.manual_seed(1)
    mixing = torch.randn(6, 60)
    rows = torch.randn(4000, 6) @ mixing + 0.3 * torch.randn(4000, 60)
    density = Density.fit(rows[:3000], components)
    density.threshold.fill_(float(torch.quantile(density.distance(rows[:3000]), 0.99)))
    assert density.beyond(rows[3000:]).double().mean() < 0.03
    # Off the plane that the rows lie in, and far out within it.
    assert density.beyond(rows[3000:] + 3 * torch.randn(1000, 60)).double().mean() > 0.95
    assert density.beyond(6 * rows[3000:]).double().mean() > 0.9


def inputs_of(trained, slides):
    """A prediction job's inputs for (code, path) of slides at 0.5 µm per pixel."""
    return {
        "model": str(trained["out"] / "model"),
        "model_sha256": "0" * 64,
        "slides": [
            {"slide": str(path), "slide_code": code, "patient": code, "mpp": 0.5, "table": None}
            for code, path in slides
        ],
    }


@pytest.fixture(scope="module")
def core(tiny):
    """An H&E core that was not measured."""
    found = next(s for s in tiny["slides"] if not s["cells"] and s["code"].endswith("-core"))
    return tiny["folder"] / found["file"]


@pytest.fixture(scope="module")
def unlike(core, tmp_path_factory):
    """The core with its red and green exchanged and turned over: dark glass, greenish tissue."""
    slide = open_slide(core)
    image = slide.region(0, 0, slide.info.width, slide.info.height)
    path = tmp_path_factory.mktemp("unlike") / "unlike.tif"
    write_pyramid(255 - image[..., [1, 0, 2]], path, mpp=0.5, mpp_source="given")
    return path


def test_training_states_the_threshold_and_where_it_comes_from(trained):
    ood = trained["result"]["metrics"]["ood"]
    assert ood["decline_above"] == DECLINE_ABOVE and ood["quantile"] == 0.99
    assert ood["threshold_from"] == "validation" and ood["threshold"] > 0
    assert ood["validation_share"] == pytest.approx(0.01, abs=0.005)
    model = checkpoint.load(trained["out"] / "model")
    assert float(model.density.threshold) == pytest.approx(ood["threshold"])


def test_a_slide_unlike_the_training_images_is_declined_and_others_are_not(
    trained, core, unlike, tmp_path
):
    recorder = Recorder()
    result = run({}, inputs_of(trained, [("LIKE", core), ("UNLIKE", unlike)]), tmp_path, recorder)
    like, odd = result["slides"]
    assert not like["declined"] and like["ood_share"] < DECLINE_ABOVE
    assert Layer.open(tmp_path / like["layer"]).n_rows == like["n_rows"]
    assert odd["declined"] and odd["ood_share"] > DECLINE_ABOVE
    assert odd["layer"] is None and odd["table"]["n_rows"] == odd["n_rows"] > 0
    # Only the layer of the slide that was predicted, and only its patient.
    assert [p.name for p in (tmp_path / "layers").iterdir()] == ["LIKE.zarr"]
    assert result["patient_table"]["n_patients"] == 1


def test_nothing_but_declined_slides_gives_no_patient_table(trained, unlike, tmp_path):
    result = run({}, inputs_of(trained, [("UNLIKE", unlike)]), tmp_path, Recorder())
    assert result["patient_table"] is None and not (tmp_path / "patients.parquet").exists()


def test_no_slide_of_the_study_is_declined_whatever_its_site(tiny, trained, tmp_path):
    drawn = [
        (s["code"], tiny["folder"] / s["file"])
        for s in tiny["slides"]
        if s["stain"] == "H&E" and s["code"].startswith("P0")
    ]
    result = run({}, inputs_of(trained, drawn), tmp_path, Recorder())
    shares = {s["slide_code"]: s["ood_share"] for s in result["slides"]}
    assert not [s["slide_code"] for s in result["slides"] if s["declined"]], shares
    assert np.median(list(shares.values())) < 0.1


def test_a_model_without_a_density_declines_nothing(trained, unlike, tmp_path):
    """As those that were saved before densities were fitted."""
    old = tmp_path / "model"
    checkpoint.save(checkpoint.load(trained["out"] / "model"), old)
    tensors = load_file(old / checkpoint.WEIGHTS)
    save_file(
        {k: v for k, v in tensors.items() if not k.startswith("density.")}, old / checkpoint.WEIGHTS
    )
    inputs = {**inputs_of(trained, [("UNLIKE", unlike)]), "model": str(old)}
    (slide,) = run({}, inputs, tmp_path / "out", Recorder())["slides"]
    assert slide["ood_share"] is None and not slide["declined"] and slide["layer"]


def test_genes_that_nothing_visible_drives_are_called_not_predictable(tiny, generated, tmp_path):
    from ml.training.run import run as train
    from tests.ml.conftest import sections

    work = {"sections": sections(tiny), "work": str(tmp_path / "work")}
    result = train({"seed": 0}, work, tmp_path, Recorder())
    listed = set(result["metrics"]["not_predictable"])
    with (generated / "truth" / "oracle_genes.csv").open() as file:
        oracle = [r for r in csv.DictReader(file) if r["part"] == "test"]
    nothing = {r["gene"] for r in oracle if r["link"] == "nothing"}
    strong = sorted(
        (r for r in oracle if r["link"] == "morphology"), key=lambda r: -float(r["pcc_visible"])
    )[:15]
    assert len(listed & nothing) > 0.8 * len(nothing)
    assert len(listed & {r["gene"] for r in strong}) < 0.5 * len(strong)
    with (tmp_path / "evaluation" / "per_gene.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["part"] == "validation"]
    assert {r["gene"] for r in rows if float(r["pcc_low"]) <= 0} == listed
    assert all(float(r["pcc_low"]) <= float(r["pcc"]) <= float(r["pcc_high"]) for r in rows)
