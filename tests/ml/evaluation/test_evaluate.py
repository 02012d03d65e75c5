"""The whole report on the tiny study: what it holds, what it refuses, what it says plainly."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from ml.cli import main
from ml.errors import InputError
from ml.evaluation import probes
from ml.evaluation import run as evaluation
from ml.evaluation.appearance import NAMES, appearance_of, nuclei
from ml.evaluation.baselines import bleep, published, st_net
from ml.evaluation.baselines.retrieved import mean_of_alike
from ml.evaluation.evidence import DOCUMENTS, FIGURE, fill, write_documents
from ml.evaluation.expression import score
from ml.evaluation.robustness import DISTURBANCES
from ml.evaluation.subject import Predictor
from ml.models import checkpoint
from ml.training.corpus import Corpus
from ml.training.prepare import SectionInput, read_images, read_tables
from tests.ml.conftest import Recorder, sections

ROOT = Path(__file__).resolve().parents[3]
CHEAP = {"baselines": ["mean", "colour_ridge"], "chapters": []}


@pytest.fixture(scope="module")
def quick():
    """Networks that are trained for as good as nothing: what they reach is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (st_net, published):
            patch.setattr(module, "MOST_ROWS", 48)
        patch.setattr(probes, "TRAINING_SPOTS", 10)
        for module in (st_net, published, bleep):
            patch.setattr(module, "EPOCHS", 1)
        yield


def inputs_of(tiny, trained, **other):
    found = {
        "model": str(trained["out"] / "model"), "sections": sections(tiny),
        "work": trained["inputs"]["work"],
        "sites": {p["code"]: p["site"] for p in tiny["patients"]},
    }  # fmt: skip
    return {**found, **other}


@pytest.fixture(scope="module")
def evaluated(tiny, trained, quick, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated")
    return out, evaluation.run({}, inputs_of(tiny, trained), out, Recorder())


@pytest.fixture(scope="module")
def corpora(tiny, trained):
    model = checkpoint.load(trained["out"] / "model").eval()
    given = [SectionInput.of(s) for s in sections(tiny)]
    tables = read_tables(given, panel=list(model.config.vocabulary.symbols))
    images = read_images(tables, model.config, Path(trained["inputs"]["work"]), Recorder())
    parts = {
        part: Corpus([s for s in images if s.part == part], model.config)
        for part in ("train", "test")
    }
    return model, parts


class TestReport:
    def test_every_baseline_and_chapter_is_there(self, evaluated):
        _, result = evaluated
        (found,) = result["evaluations"]
        metrics = found["metrics"]
        assert found["part"] == "test" and metrics["full"]
        assert set(metrics["baselines"]) == set(evaluation.BASELINES)
        chapters = {"uncertainty", "retrieval", "cell_types", "robustness", "splits"}
        assert chapters <= set(metrics)
        assert metrics["baselines"]["neighbours"]["fair"] is False
        assert "verdict" not in metrics["baselines"]["neighbours"]
        assert all(
            b["verdict"] in ("ahead", "behind", "cannot tell")
            for b in metrics["baselines"].values() if b["fair"]
        )  # fmt: skip
        assert set(metrics["robustness"]["curves"]) == {d.name for d in DISTURBANCES}
        assert metrics["cell_types"]["methods"]["probe"]["macro_f1"] > 0
        assert {"ari", "nmi"} == set(metrics["cell_types"]["clusters"]["embeddings"])
        assert metrics["retrieval"]["chance_r50"] > metrics["retrieval"]["chance_r10"]
        assert result["audit"]["statistics"] and result["audit"]["scope"] == "held-out patients"

    def test_the_benchmarks_protocol_has_spots_of_its_own(self, evaluated, corpora):
        found = evaluated[1]["evaluations"][0]["metrics"]["hest_protocol"]
        _, parts = corpora
        assert found["pearson_mean"] > 0.2 and len(found["genes"]) == 50
        assert 10 < found["spots"]["train"] < len(parts["train"].measured) / 4

    def test_limits_of_a_baseline_are_stated(self, evaluated):
        facts = evaluated[1]["evaluations"][0]["metrics"]["baselines"]["st_net"]["facts"]
        assert facts["training_rows"] == 48 < facts["of_rows"]

    def test_what_a_careless_split_claims(self, evaluated):
        """The planted sites stain differently: rows at random look better than sites left out."""
        splits = evaluated[1]["evaluations"][0]["metrics"]["splits"]
        assert splits["random rows"]["pcc_median"] > splits["sites"]["pcc_median"] + 0.02

    def test_few_patients_are_said(self, evaluated):
        metrics = evaluated[1]["evaluations"][0]["metrics"]
        assert metrics["resampled"] == "blocks" and metrics["smallest_p"] is None
        assert any("too few to resample" in problem for problem in metrics["problems"])

    def test_files(self, evaluated):
        out, result = evaluated
        table = pd.read_csv(out / "evaluation" / "per_gene.csv")
        assert {"part", "gene", "pcc", "pcc_low", "q", "scc", "rvd", "ssim", "moran", "spatial",
                "ceiling_pcc", "bleep_pcc", "published_pcc"} <= set(table.columns)  # fmt: skip
        maps = out / "evaluation" / "maps" / "test"
        measured, predicted = (np.load(maps / f"{n}.npy") for n in ("measured", "predicted"))
        slides = json.loads((maps / "slides.json").read_text())
        genes = json.loads((maps / "genes.json").read_text())
        assert measured.shape == predicted.shape == (len(genes), slides[-1]["stop"])
        # What is drawn is what was scored.
        own = slice(slides[0]["first"], slides[0]["stop"])
        best = genes.index(table["gene"][0])
        assert np.corrcoef(measured[best, own], predicted[best, own])[0, 1] > 0.2
        report = json.loads((out / "evaluation" / "report.json").read_text())
        assert report["evaluations"][0]["metrics"]["pcc_median"] == pytest.approx(
            result["evaluations"][0]["metrics"]["pcc_median"]
        )

    def test_controls_are_null(self, evaluated):
        controls = evaluated[1]["evaluations"][0]["metrics"]["controls"]
        assert abs(controls["permuted"]["pcc_median"]) < 0.03
        assert abs(controls["shifted"]["pcc_median"]) < 0.06
        assert controls["permuted"]["below_level"] < 0.15

    def test_worst_regions_are_ordered_and_on_held_out_slides(self, evaluated, tiny):
        regions = evaluated[1]["evaluations"][0]["metrics"]["worst_regions"]
        errors = [region["error"] for region in regions]
        test = {s["slide_code"] for s in sections(tiny) if s["part"] == "test"}
        assert errors == sorted(errors, reverse=True) and errors[0] > regions[0]["usual"]
        assert {region["slide"] for region in regions} <= test

    def test_it_is_the_same_again(self, evaluated, tiny, trained, tmp_path):
        again = evaluation.run(CHEAP, inputs_of(tiny, trained), tmp_path, Recorder())
        first, second = (r["evaluations"][0]["metrics"] for r in (evaluated[1], again))
        assert second["pcc_median"] == first["pcc_median"]
        assert second["baselines"]["colour_ridge"]["p"] == first["baselines"]["colour_ridge"]["p"]


class TestScore:
    def test_an_oracle_scores_one_and_noise_nothing(self, corpora):
        model, parts = corpora
        test, symbols = parts["test"], model.config.vocabulary.symbols
        oracle = Predictor("oracle", "oracle", lambda corpus: corpus.all_expression())
        rng = np.random.default_rng(0)
        noise = Predictor(
            "noise", "noise", lambda c: rng.normal(size=c.all_expression().shape).astype("f4")
        )
        metrics, table = score(oracle, [noise], test, symbols, "cell")
        assert metrics["pcc_median"] == metrics["scc_median"] == pytest.approx(1)
        assert metrics["ssim_median"] == pytest.approx(1) and metrics["rvd_median"] == 0
        assert abs(metrics["baselines"]["noise"]["pcc_median"]) < 0.03
        assert metrics["baselines"]["noise"]["verdict"] == "ahead"
        assert (table["q"][np.isfinite(table["pcc"])] < 0.05).all()
        metrics, _ = score(noise, [oracle], test, symbols, "cell")
        assert metrics["baselines"]["oracle"]["verdict"] == "behind"

    def test_what_is_not_a_number_and_what_does_not_vary_is_named(self, corpora):
        model, parts = corpora
        test, symbols = parts["test"], model.config.vocabulary.symbols
        counts = test.counts.tolil(copy=True)
        counts[:, 3] = 0
        silent = Corpus(
            [replace(s, counts=counts[a:b].tocsr()) for s, a, b in
             zip(test.sections, test.offsets, test.offsets[1:], strict=False)],
            model.config,
        )  # fmt: skip
        predicted = silent.predict(model)
        predicted[5, 7] = np.nan
        own = Predictor("past", "PAST", lambda corpus: predicted)
        metrics, table = score(own, [], silent, symbols, "cell", predicted=predicted)
        assert metrics["pcc_undefined"] == 2
        assert any(symbols[7] in p and "not numbers" in p for p in metrics["problems"])
        assert any(symbols[3] in p and "variation" in p for p in metrics["problems"])
        assert table.set_index("gene")["pcc"][[symbols[3], symbols[7]]].isna().all()


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "code"),
        [
            (lambda s: [x for x in s if x["part"] != "train"], "evaluate.no_training"),
            (lambda s: [x for x in s if x["part"] != "test"], "evaluate.no_part"),
            (lambda s: [{**x, "patient": s[0]["patient"]} if x["part"] == "test" else x for x in s],
             "split.patient_in_two_parts"),
            (lambda s: [*s, {**next(x for x in s if x["part"] == "train"), "part": "test",
                             "slide_code": "copy", "patient": "new"}], "split.same_slide"),
        ],
        ids=["no training", "no test", "patient in two parts", "slide twice"],
    )  # fmt: skip
    def test_parts_that_leak_or_are_empty(self, tiny, trained, tmp_path, change, code):
        given = inputs_of(tiny, trained, sections=change(sections(tiny)))
        with pytest.raises(InputError) as error:
            evaluation.run(CHEAP, given, tmp_path, Recorder())
        assert error.value.code == code and not (tmp_path / "evaluation").exists()

    def test_a_statistic_that_saw_the_test_part(self, tiny, trained, tmp_path):
        model = checkpoint.load(trained["out"] / "model")
        model.feature_mean += 0.01
        checkpoint.save(model, tmp_path / "leaky")
        given = inputs_of(tiny, trained, model=str(tmp_path / "leaky"))
        with pytest.raises(InputError) as error:
            evaluation.run(CHEAP, given, tmp_path, Recorder())
        assert error.value.code == "split.statistic_leak"

    def test_too_few_shared_genes(self, tiny, trained, tmp_path):
        with pytest.raises(InputError) as error:
            read_tables(
                [SectionInput.of(s) for s in sections(tiny)],
                panel=[f"NOGENE{i}" for i in range(40)] + ["EPCAM"], partial=True,
            )  # fmt: skip
        assert error.value.code == "genes.too_few_shared" and "1 of the 41" in error.value.what

    def test_unknown_baseline(self, tiny, trained, tmp_path):
        with pytest.raises(InputError, match="no baseline"):
            evaluation.run({"baselines": ["best"]}, inputs_of(tiny, trained), tmp_path, Recorder())


@pytest.fixture
def study(tiny, tmp_path):
    """The tiny study as `past convert` leaves it."""
    folder = tmp_path / "study"
    shutil.copytree(tiny["folder"], folder)
    (folder / "result.json").write_text(json.dumps(tiny, default=str))
    return folder


class TestCommand:
    def test_evaluate_writes_a_card_and_notes_the_look(self, study, trained, tmp_path, capsys):
        folder = shutil.copytree(trained["out"] / "model", tmp_path / "model")
        command = ["evaluate", str(folder), str(study), "--baselines", "mean"]
        assert main([*command, "--chapters", "retrieval"]) == 0
        card = (tmp_path / "evaluated" / "CARD.md").read_text()
        assert card in capsys.readouterr().out
        assert "Research use only" in card and "mean of the training part" in card
        assert "split-half ceiling" in card and "null: rows permuted" in card
        (look,) = (tmp_path / "looks.jsonl").read_text().splitlines()
        assert json.loads(look)["part"] == "test"
        assert main(["card", str(folder), str(tmp_path / "nothing")]) == 3

    def test_a_study_that_changed_is_refused(self, study, trained, capsys):
        result = json.loads((study / "result.json").read_text())
        train = next(s for s in result["slides"] if s["cells"])
        shutil.rmtree(study / train["cells"]["path"])
        other = next(s for s in result["slides"] if s["cells"] and s is not train)
        shutil.copytree(study / other["cells"]["path"], study / train["cells"]["path"])
        assert main(["evaluate", str(trained["out"] / "model"), str(study)]) == 3
        assert "another table" in capsys.readouterr().err


class TestAppearance:
    def test_a_disc_has_its_area_and_no_long_side(self):
        y, x = np.mgrid[:56, :56] - 27.5
        disc, ellipse = x**2 + y**2 < 100, x**2 / 196 + y**2 / 36 < 1
        stains = np.zeros((3, 2, 56, 56), np.float32)
        stains[0, 0][disc], stains[1, 0][ellipse] = 1.0, 1.0
        names = [name.removeprefix("nucleus_") for name in NAMES[-16:]]
        found = [dict(zip(names, row, strict=True)) for row in nuclei(stains, 0.5)]
        assert found[0]["area"] == disc.sum() and found[0]["eccentricity"] < 0.1
        assert found[0]["long_axis"] == pytest.approx(20, rel=0.05)
        assert found[1]["long_axis"] == pytest.approx(28, rel=0.05)
        assert found[1]["short_axis"] == pytest.approx(12, rel=0.08)
        assert found[1]["eccentricity"] == pytest.approx(np.sqrt(1 - (12 / 28) ** 2), abs=0.03)
        assert found[2]["area"] == found[2]["long_axis"] == found[2]["nuclear_share"] == 0

    def test_crops_do_not_touch_each_other(self):
        """Dark to the border in two crops on each other: two parts, not one."""
        stains = np.ones((2, 2, 56, 56), np.float32)
        assert nuclei(stains, 0.5)[:, 0].tolist() == [56 * 56, 56 * 56]

    def test_a_blank_slide_has_no_nuclei(self):
        blank = np.full((4, 56, 56, 3), 245, np.uint8)
        found = appearance_of(blank, 1.0)
        assert np.isfinite(found).all() and (found[:, -16] == 0).all()


def test_retrieval_takes_the_nearest_rows():
    import torch

    keys = torch.eye(4)
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    assert mean_of_alike(keys[2:3], keys, values, 1).tolist() == [[4.0, 5.0]]
    assert mean_of_alike(keys[:1], keys, values, 99).tolist() == [values.mean(0).tolist()]


@pytest.mark.parametrize("kind", DISTURBANCES, ids=lambda d: d.name)
def test_a_change_of_nothing_changes_nothing_and_more_changes_more(kind):
    rng = np.random.default_rng(0)
    waves = gaussian_filter(rng.normal(size=(64, 64, 3)), (1.5, 1.5, 0))
    pixels = (150 + 60 * np.tanh(3 * waves)).astype(np.uint8)

    def off(level):
        return np.abs(kind.apply(pixels, 0.5, level).astype(int) - pixels).mean()

    assert off(kind.none) < (6 if kind.name == "JPEG" else 1.5)
    harsh = kind.levels[-1]
    assert (
        off(harsh) > 1.5 * off(kind.none) + 2 and kind.apply(pixels, 0.5, harsh).dtype == np.uint8
    )


class TestEvidence:
    def test_blocks_are_filled_and_the_rest_stays(self):
        text = "a\n<!-- evidence:x -->\nold\n<!-- /evidence:x -->\nb\n"
        filled, left = fill(text, {"x": "new"}, "README.md")
        assert filled == "a\n<!-- evidence:x -->\nnew\n<!-- /evidence:x -->\nb\n" and not left
        assert fill(filled, {"x": "new"}, "README.md")[0] == filled
        assert fill(text, {}, "README.md") == (text, {"x"})

    def test_a_block_that_is_not_closed_is_refused(self):
        with pytest.raises(InputError, match="README"):
            fill("<!-- evidence:x -->\n", {"x": "new"}, "README.md")

    def test_documents_of_the_repository_have_the_blocks_that_a_run_fills(
        self, evaluated, tmp_path
    ):
        out, _ = evaluated
        (tmp_path / "run" / "evaluated").mkdir(parents=True)
        shutil.copytree(out / "evaluation", tmp_path / "run" / "evaluated" / "evaluation")
        (tmp_path / "run" / "evaluated" / "CARD.md").write_text("# A card\n")
        for name in DOCUMENTS:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
        left = write_documents(tmp_path / "run", tmp_path)
        assert left == ["ablations", "her2st", "twins"]
        text = (tmp_path / "ml/evaluation/README.md").read_text()
        assert "> # A card" in text and "| split-half ceiling |" in text
        assert (tmp_path / FIGURE).read_text().startswith("<?xml")
