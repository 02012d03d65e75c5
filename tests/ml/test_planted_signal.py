"""What was planted in the synthetic study is found on held-out patients; nothing else is."""

import csv
from statistics import mean, median

import pytest

from ml.training.run import run
from tests.ml.conftest import Recorder, sections


def held_out(found, out):
    """Pearson of each gene on the test patient, for the model and the colour ridge."""
    given = sections(found)
    run({"seed": 0}, {"sections": given, "work": str(out / "work")}, out, Recorder())
    with (out / "evaluation" / "per_gene.csv").open() as file:
        return {r["gene"]: r for r in csv.DictReader(file) if r["part"] == "test"}


@pytest.fixture(scope="module")
def planted(generated):
    with (generated / "truth" / "genes.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {r["symbol"] for r in rows if r["link"] == "morphology"}


def test_the_model_finds_the_planted_genes_and_beats_both_baselines(tiny, planted, tmp_path):
    genes = held_out(tiny, tmp_path)
    of_planted = [r for gene, r in genes.items() if gene in planted]
    assert 40 <= len(of_planted) < len(genes)
    past = median(float(r["pcc"]) for r in of_planted)
    colour = median(float(r["colour_ridge_pcc"]) for r in of_planted)
    assert past > 0.1  # the mean predictor's is 0
    assert past > colour + 0.01
    # Of all genes the mean: half follow no look, so the median lies where nobody finds much.
    assert mean(float(r["pcc"]) for r in genes.values()) > mean(
        float(r["colour_ridge_pcc"]) for r in genes.values()
    )


def test_the_null_twin_is_null(tiny_null, tmp_path):
    genes = held_out(tiny_null, tmp_path)
    assert len(genes) == 120
    assert abs(median(float(r["pcc"]) for r in genes.values())) < 0.05
