"""HEST-Bench and HESCAPE on small drawn folders in their layouts, and on broken ones."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from fixtures.benchmarks import write_hescape, write_hest
from ml.cli import main
from ml.errors import InputError
from ml.evaluation.benchmarks import hescape, hest
from tests.ml.conftest import Recorder

ENCODER = "efficientnet_lite0"


@pytest.fixture(scope="module")
def hest_folder(tmp_path_factory):
    return write_hest(tmp_path_factory.mktemp("hest")).parent


@pytest.fixture(scope="module")
def hescape_folder(tmp_path_factory):
    return write_hescape(tmp_path_factory.mktemp("hescape")).parent


class TestHest:
    def test_the_probe_is_the_benchmarks_own_recipe(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(400, 300)), rng.poisson(3, (400, 50)).astype(float)
        found, _ = hest.linear_probe(x[:320], np.log1p(y[:320]), x[320:], np.log1p(y[320:]))
        scaler = StandardScaler().fit(x[:320])
        pca = PCA(256, random_state=1).fit(scaler.transform(x[:320]))
        inputs = [pca.transform(scaler.transform(v)).astype(np.float32) for v in (x[:320], x[320:])]
        ridge = Ridge(alpha=100 / (256 * 50), solver="lsqr", fit_intercept=False, max_iter=1000)
        predicted = ridge.fit(inputs[0], np.log1p(y[:320])).predict(inputs[1])
        expected = [pearsonr(np.log1p(y[320:, g]), predicted[:, g])[0] for g in range(50)]
        # The benchmark transforms the training part while it fits, which differs by rounding.
        assert found == pytest.approx(expected, abs=2e-3)

    def test_it_runs_in_its_layout(self, hest_folder, tmp_path, capsys):
        command = ["benchmark", "hest", str(hest_folder), "--out", str(tmp_path)]
        assert main(command) == 0
        assert "| DRAWN | 0." in capsys.readouterr().out
        document = json.loads((tmp_path / "dataset_results.json").read_text())
        (result,) = document["results"][0]["results"]
        assert result["pearson_mean"] > 0.5 and len(result["mean_per_split"]) == 3
        assert document["average"][ENCODER] == pytest.approx(result["pearson_mean"])
        table = pd.read_csv(tmp_path / "dataset_results.csv")
        assert table[f"{ENCODER}_mean"][0] == pytest.approx(result["pearson_mean"])

    def test_spots_are_joined_by_barcode(self, hest_folder, tmp_path):
        """Shifted by a few, they are noise; and files that changed are not taken for the old."""
        shuffled = shutil.copytree(hest_folder, tmp_path / "shuffled")
        import h5py

        for path in (shuffled / "DRAWN" / "patches").iterdir():
            with h5py.File(path, "r+") as file:
                file["img"][...] = np.roll(file["img"][...], 7, axis=0)
        (right,), (wrong,) = (
            hest.run_hest(root, ENCODER, tmp_path / "out", Recorder())
            for root in (hest_folder, shuffled)
        )
        assert abs(wrong.mean) < 0.15 < 0.5 < right.mean

    @pytest.mark.parametrize(
        ("broken", "where"),
        [("var_50genes.json", "var_50genes"), ("patches/S1.h5", "S1.h5"),
         ("adata/S0.h5ad", "S0.h5ad"), ("splits/train_0.csv", "train_0.csv")],
    )  # fmt: skip
    def test_broken_files_are_named(self, hest_folder, tmp_path, broken, where):
        root = shutil.copytree(hest_folder, tmp_path / "root")
        (root / "DRAWN" / broken).write_bytes(b"sample_id\nS0\n" if "csv" in broken else b"")
        with pytest.raises(InputError) as error:
            hest.run_hest(root, ENCODER, tmp_path / "out", Recorder())
        assert error.value.code == "hest.layout" and where in error.value.where

    def test_a_folder_without_datasets(self, tmp_path, capsys):
        assert main(["benchmark", "hest", str(tmp_path)]) == 3
        assert "splits/train_0.csv" in capsys.readouterr().err


class TestHescape:
    def test_it_runs_in_its_layout(self, hescape_folder, tmp_path, capsys):
        data, splits = hescape_folder / "data.dataset", hescape_folder / "splits"
        command = ["benchmark", "hescape", str(data), str(splits), "--out", str(tmp_path)]
        assert main(command) == 0
        assert "| R@5 | 0." in capsys.readouterr().out
        found = json.loads((tmp_path / "hescape.json").read_text())
        assert found["test_pairs"] == 60 and found["train_pairs"] == 180
        assert found["chance_r5"] == pytest.approx(5 / 60)
        assert found["image_to_gene_r5"] > 2 * found["chance_r5"]
        assert found["gene_to_image_r5"] > 2 * found["chance_r5"]

    def test_a_name_in_two_parts_is_refused(self, hescape_folder, tmp_path):
        splits = shutil.copytree(hescape_folder / "splits", tmp_path / "splits")
        pd.DataFrame({"id": ["sample 0", "sample 4"]}).to_csv(splits / "test.csv", index=False)
        with pytest.raises(InputError) as error:
            hescape.run_hescape(
                hescape_folder / "data.dataset", splits, ENCODER, tmp_path / "out", Recorder()
            )
        assert error.value.code == "hescape.parts_overlap" and "sample 0" in error.value.where

    @pytest.mark.parametrize("broken", ["state.json", "data-00001-of-00002.arrow"])
    def test_broken_files_are_said(self, hescape_folder, tmp_path, broken):
        data = shutil.copytree(hescape_folder / "data.dataset", tmp_path / "data")
        (data / broken).write_bytes(b"{")
        with pytest.raises(InputError) as error:
            hescape.run_hescape(data, hescape_folder / "splits", ENCODER, tmp_path, Recorder())
        assert error.value.code == "hescape.layout"

    def test_unknown_names_leave_a_part_empty(self, hescape_folder, tmp_path):
        splits = shutil.copytree(hescape_folder / "splits", tmp_path / "splits")
        pd.DataFrame({"id": ["nobody"]}).to_csv(splits / "val.csv", index=False)
        with pytest.raises(InputError) as error:
            hescape.run_hescape(
                hescape_folder / "data.dataset", splits, ENCODER, tmp_path / "out", Recorder()
            )
        assert error.value.code == "hescape.empty_part" and "val.csv" in error.value.where
