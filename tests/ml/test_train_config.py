"""Config files of trainings: what is wrong with one is named, with what to do about it."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from ml.cli import main
from ml.errors import InputError
from ml.models.config import Architecture
from ml.training.config_file import DataSection, ModelSection, nested_tables, read_config
from ml.training.example import attribute_docs, example
from ml.training.parts import parts_of
from ml.training.settings import Settings
from ml.training.shards.layout import Manifest, SlideRecord
from ml.training.shards.layout import Settings as CorpusSettings
from ml.training.train_file import study_sections
from tests.ml.training.corpora import write_study

STUDY = 'out = "trained"\n[data]\nstudy = "study"\n'
GOOD = 'out = "trained"\n[data]\ncorpus = "corpus"\n'


def config(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        read_config(config(folder, text))
    return caught.value


def test_a_config_is_read_with_paths_beside_it(tmp_path: Path) -> None:
    text = GOOD.replace("[data]", "[data]\nvalidation = ['P1']\ntest_share = 0.25")
    found = read_config(
        config(
            tmp_path, text + "[training]\nepochs = 3\nlearning_rate = 1\n[losses]\ncontrast = 0\n"
        )
    )
    assert found.out == tmp_path / "trained" and found.data.corpus == str(tmp_path / "corpus")
    assert (found.data.validation, found.data.test_share) == (("P1",), 0.25)
    assert (found.settings.epochs, found.settings.learning_rate) == (3, 1.0)
    assert (found.settings.losses.contrast, found.settings.losses.expression) == (0.0, 1.0)
    assert found.given["training"]["epochs"] == 3
    remote = read_config(config(tmp_path, GOOD.replace('"corpus"', '"s3://b/c"\ncache = "kept"')))
    assert (remote.data.corpus, remote.data.cache) == ("s3://b/c", tmp_path / "kept")


@pytest.mark.parametrize(
    ("text", "code", "names", "remedy"),
    [
        (GOOD + "[training]\nepoch = 3\n", "config.unknown_key", "g.epoch", "training.epochs?"),
        (GOOD + "[losses]\nzebra = 3\n", "config.unknown_key", "losses.zebra", "masked_gene"),
        (GOOD + "[trainig]\nepochs = 3\n", "config.unknown_key", "trainig", "mean training?"),
        (GOOD + "[architecture]\ndim = 3.5\n", "config.type", "architecture.dim", "whole number"),
        (GOOD + "[training]\nepochs = true\n", "config.type", "training.epochs", "whole number"),
        (GOOD + "validation = 'P1'\n", "config.type", "data.validation", "a list"),
        (GOOD + "validation = [1]\n", "config.type", "data.validation[0]", "a text"),
        (GOOD + "row_kind = 'nucleus'\n", "config.type", "data.row_kind", "cell, spot"),
        (GOOD + "[model]\npreset = 'huge'\n", "train.preset", "model.preset", "small"),
        ("[data]\ncorpus = 'c'\n", "config.missing", "out", "out ="),
        ("out = 'o'\n", "config.data", "data", "past corpus build"),
        (GOOD + "study = 's'\n", "config.data", "data", "Give one"),
        (GOOD + "test_share = 1.0\n", "config.data", "data.test_share", "below 1"),
        (GOOD + "test = ['P1']\ntest_share = 0.1\n", "config.data", "test_share", "data.test or"),
        (GOOD + "test = ['P1']\nvalidation = ['P1']\n", "config.data", "data", "one of them"),
        (STUDY + "test_share = 0.1\n", "config.data", "test_share", "slides"),
        (STUDY + "workers = 3\n", "config.data", "data.workers", "Leave it out"),
        (STUDY + "[model]\nweights = 'w'\n", "config.data", "model.weights", "Leave it out"),
        (GOOD + "[align]\nepochs = 0\n", "config.data", "align.epochs", "Leave it out"),
        (GOOD + "row_kind = 'spot'\n", "config.data", "data.row_kind", "Leave it out"),
        ("out = 'o'\n[data]\ncorpus = 's3://x/y'\n", "config.data", "data.cache", "cache ="),
        ("data = 3\nout = 'o'\n", "config.type", "data", "a table"),
        ("out = [", "config.unreadable", "run.toml", "--example"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    tmp_path: Path, text: str, code: str, names: str, remedy: str
) -> None:
    error = refused(tmp_path, text)
    assert error.code == code and names in error.where and remedy in error.remedy


def test_the_example_is_a_config_with_every_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--example"]) == 0
    text = capsys.readouterr().out
    assert text == example()
    read_config(config(tmp_path, text))
    tables = {
        "data": DataSection, "model": ModelSection, "architecture": Architecture,
        "training": Settings, **nested_tables(Settings),
    }  # fmt: skip
    nested = set(nested_tables(Settings))
    written = re.split(r"^\[(\w+)\]$", text, flags=re.MULTILINE)
    of = dict(zip(written[1::2], written[2::2], strict=True))
    assert set(of) == set(tables)
    for name, section in of.items():
        keys = set(re.findall(r"^#? ?(\w+) =", section, flags=re.MULTILINE))
        assert keys == {f.name for f in fields(tables[name])} - nested
    # The values behind # are the defaults: a config with all of them means the same.
    for_studies = r"(?s)\[align\].*?(?=\n\[)|# joint = false|# test_site = \"\""
    lines = re.sub(for_studies, "", text).splitlines()
    everything = "\n".join(re.sub(r"^# (\w+ = \S)", r"\1", line) for line in lines)
    assert read_config(config(tmp_path, everything)).settings == Settings()


def test_docs_of_attributes() -> None:
    docs = attribute_docs(DataSection)
    assert docs["corpus"].startswith("folder or fsspec URL") and docs["study"].endswith("memory.")
    assert docs["by_length"].endswith("which saves padding on a GPU.")


def slide(number: int, patient: str, study: str = "s") -> SlideRecord:
    return SlideRecord(
        study, f"S{number}", patient, "", "Xenium", "cell", 0.5, 10, 0, 0, 0, (112.0, 28.0),
        f"table{number}", f"slide{number}", f"{number}",
    )  # fmt: skip


def manifest(*slides: SlideRecord, fitted: list[dict[str, str]] | None = None) -> Manifest:
    return Manifest(CorpusSettings(), "", {"tables": fitted or []}, [[0, 5]], list(slides))


class TestSites:
    """A whole site can be held out, whatever the study planned."""

    def parts(self, folder: Path, extra: str) -> dict[str, str]:
        write_study(folder / "study", slides=4)
        path = config(folder, STUDY + extra)
        return {s["slide_code"]: s["part"] for s in study_sections(read_config(path))}

    def test_all_of_its_patients_are_tested_and_nobody_else(self, tmp_path: Path) -> None:
        found = self.parts(tmp_path, 'test_site = "B"\nvalidation = ["S0"]\ntest = ["S2"]\n')
        assert found == {"S0": "validation", "S1": "test", "S2": "train", "S3": "test"}

    def test_an_unknown_site_is_named_with_those_there_are(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="A, B") as error:
            self.parts(tmp_path, 'test_site = "Z"\n')
        assert error.value.code == "split.unknown_site"


def test_slides_that_look_alike_are_not_divided() -> None:
    known = manifest(*(slide(i, f"P{i}") for i in range(4)))
    known.alike = [(0, 2, 0.93), (1, 3, 0.4)]
    data = DataSection(test=("P2", "P3"))
    with pytest.raises(InputError) as error:
        parts_of(known, data, "corpus")
    assert error.value.code == "split.look_alike" and "s/S0 and s/S2" in error.value.where
    assert parts_of(known, DataSection(test=("P0", "P2")), "corpus").test == (0, 2)
    again = Manifest.from_json(known.as_json(), "corpus")
    assert again.alike == known.alike and again.compared == []


class TestParts:
    """Patients are held out whole, whatever was asked for."""

    MANY = manifest(*(slide(i, f"P{i // 3}") for i in range(30)))

    def test_named_patients_take_all_their_slides(self) -> None:
        parts = parts_of(self.MANY, DataSection(validation=("P1",), test=("s/P9",)), "corpus")
        assert parts.validation == (3, 4, 5) and parts.test == (27, 28, 29)
        assert len(parts.train) == 24 and parts.scope == "held-out patients"
        assert parts.part_of()[4] == "validation"

    @pytest.mark.parametrize("seed", range(6))
    def test_shares_never_split_a_patient(self, seed: int) -> None:
        data = DataSection(validation_share=0.2, test_share=0.3, split_seed=seed)
        parts = parts_of(self.MANY, data, "corpus")
        assert (len(parts.validation), len(parts.test)) == (6, 9)
        owners = [{n // 3 for n in p} for p in (parts.train, parts.validation, parts.test)]
        assert sum(map(len, owners)) == len(set.union(*owners)) == 10
        assert parts_of(self.MANY, data, "corpus") == parts

    def test_the_draw_depends_on_the_seed(self) -> None:
        drawn = {
            parts_of(self.MANY, DataSection(test_share=0.2, split_seed=s), "corpus").test
            for s in range(8)
        }
        assert len(drawn) > 1

    @pytest.mark.parametrize(
        ("data", "code"),
        [
            (DataSection(test=("P77",)), "split.unknown_patient"),
            (DataSection(test=("P1",), validation=("s/P1",)), "split.patient_in_two_parts"),
            (DataSection(test_share=0.5, validation_share=0.5), "split.too_few"),
        ],
    )
    def test_impossible_parts_are_refused(self, data: DataSection, code: str) -> None:
        with pytest.raises(InputError) as caught:
            parts_of(self.MANY, data, "corpus")
        assert caught.value.code == code

    def test_a_name_of_two_studies_must_say_which(self) -> None:
        both = manifest(slide(0, "P0"), slide(1, "P0", "t"), slide(2, "P1"))
        with pytest.raises(InputError, match="several studies"):
            parts_of(both, DataSection(test=("P0",)), "corpus")
        assert parts_of(both, DataSection(test=("t/P0",)), "corpus").test == (1,)

    @pytest.mark.parametrize("known", ["hash", "name"])
    def test_means_fitted_to_held_out_patients_are_refused(self, known: str) -> None:
        table = {"table": "x", "sha256": "table4"}
        if known == "name":
            table = {"table": "x", "sha256": "other", "study": "s", "patient": "P1"}
        leaky = manifest(*(slide(i, f"P{i // 3}") for i in range(30)), fitted=[table])
        assert parts_of(leaky, DataSection(test=("P2",)), "corpus").test == (6, 7, 8)
        with pytest.raises(InputError, match="fitted to s/P1 too") as caught:
            parts_of(leaky, DataSection(test=("P1",)), "corpus")
        assert caught.value.code == "split.vocabulary_leak"
        assert "--fit-on-patients" in caught.value.remedy
