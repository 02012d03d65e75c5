"""Vocabulary files: made from cell tables and Nicheformer's files, and read back."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from ml.errors import InputError
from ml.io.celltable import write_cell_table
from ml.io.store import content_hash
from ml.report import ConsoleReport
from ml.tokens.build import from_nicheformer, from_tables
from ml.tokens.commands import named_path
from ml.tokens.files import VocabularyFile


def table(path, counts, symbols, gene_ids):
    counts = csr_matrix(np.array(counts))
    write_cell_table(
        path, counts=counts, symbols=symbols, gene_ids=gene_ids,
        xy=np.zeros((counts.shape[0], 2), np.float32),
        obs_names=[str(i) for i in range(counts.shape[0])],
        row_kind="cell", spot_diameter_um=None, source="measured",
    )  # fmt: skip
    return path


@pytest.fixture
def tables(tmp_path):
    return [
        ("Xenium", table(tmp_path / "a", [[1, 3, 0], [0, 4, 0], [0, 0, 0]], ["B", "A", "C"],
                         ["ENSG2.4", "ENSG1", ""])),
        ("CosMx", table(tmp_path / "b", [[5, 5], [0, 1]], ["B", "D"], ["ENSG2", "ENSG4"])),
        ("Xenium", table(tmp_path / "c", [[2, 2]], ["A", "C"], ["", "ENSG3"])),
    ]  # fmt: skip


def test_means_are_of_expressing_cells_of_one_technology(tables, capsys):
    found = from_tables(tables, ConsoleReport())
    assert found.gene_ids == ("ENSG1", "ENSG2", "ENSG3", "ENSG4")
    assert found.symbols == ("A", "B", "C", "D")
    nan = np.nan
    assert found.means["Xenium"] == pytest.approx(
        [(7500 + 10_000 + 5000) / 3, 2500, 5000, nan], nan_ok=True
    )
    assert found.means["CosMx"] == pytest.approx([nan, 5000, nan, 7500], nan_ok=True)
    assert "a: 1 rows have no counts" in capsys.readouterr().err
    assert from_tables(tables[::-1], ConsoleReport()).symbols == found.symbols


def test_a_file_is_read_as_it_was_written(tables, tmp_path):
    found = from_tables(tables, ConsoleReport())
    found.save(tmp_path / "vocabulary")
    lines = (tmp_path / "vocabulary" / "genes.csv").read_text().splitlines()
    assert lines[:3] == ["gene_id,symbol,Xenium,CosMx", "ENSG1,A,7500.0,", "ENSG2,B,2500.0,5000.0"]
    again = VocabularyFile.load(tmp_path / "vocabulary")
    assert (again.gene_ids, again.symbols) == (found.gene_ids, found.symbols)
    assert again.provenance["tables"][0] == {
        "technology": "Xenium", "table": "a", "rows": 2, "sha256": content_hash(tables[0][1])[0],
    }  # fmt: skip
    for name, values in found.means.items():
        assert np.array_equal(again.means[name], values, equal_nan=True)
    assert again.symbol_of["ENSG4"] == "D" and again.id_of["D"] == "ENSG4"
    vocabulary = again.technology("CosMx")
    assert len(vocabulary) == 34 and vocabulary.id_index["ENSG2"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c", "vocabulary"]


def code_of(call):
    with pytest.raises(InputError) as caught:
        call()
    return caught.value.code


def test_files_that_cannot_be_used_are_refused(tables, tmp_path):
    folder = tmp_path / "vocabulary"
    found = from_tables(tables, ConsoleReport())
    assert code_of(lambda: found.technology("Visium")) == "vocabulary.technology"
    assert code_of(lambda: VocabularyFile.load(folder)) == "vocabulary.missing"
    found.save(folder)
    assert code_of(lambda: found.save(folder)) == "vocabulary.exists"
    genes, head = folder / "genes.csv", folder / "vocabulary.json"
    genes.write_text(genes.read_text().replace("ENSG1,A", "ENSG1,Z"))
    assert code_of(lambda: VocabularyFile.load(folder)) == "vocabulary.changed"
    head.write_text("{}")
    assert code_of(lambda: VocabularyFile.load(folder)) == "vocabulary.unreadable"
    negative = VocabularyFile(("",), ("A",), {"Xenium": np.array([-1.0])})
    negative.save(tmp_path / "negative")
    assert code_of(lambda: VocabularyFile.load(tmp_path / "negative")) == "vocabulary.means"
    twice = VocabularyFile(("E", "E"), ("A", "B"), {"Xenium": np.ones(2)})
    twice.save(tmp_path / "twice")
    assert code_of(lambda: VocabularyFile.load(tmp_path / "twice")) == "vocabulary.duplicate_genes"


def test_a_symbol_with_two_ids_is_refused(tables, tmp_path):
    other = ("Xenium", table(tmp_path / "d", [[1]], ["A"], ["ENSG77"]))
    with pytest.raises(InputError, match="ENSG77") as caught:
        from_tables([*tables, other], ConsoleReport())
    assert caught.value.code == "vocabulary.two_ids"


@pytest.fixture
def nicheformer(tmp_path):
    genes = pd.DataFrame(index=["ENSG1", "ENSG2", "ENSG3", "ENSG5"])
    anndata.AnnData(X=np.zeros((1, 4)), var=genes).write_h5ad(tmp_path / "model.h5ad")
    np.save(tmp_path / "means.npy", np.array([2.5, np.nan, 0.4, 48.2]))
    named = pd.DataFrame({"gene_ids": ["ENSG2.1", "ENSG1", "ENSG5"]}, index=["B", "A", "A-1"])
    anndata.AnnData(X=np.zeros((1, 3)), var=named).write_h5ad(tmp_path / "panel.h5ad")
    return tmp_path


def test_nicheformers_files_are_imported(nicheformer, tables):
    means = {"Xenium": nicheformer / "means.npy"}
    found = from_nicheformer(
        nicheformer / "model.h5ad", means, [nicheformer / "panel.h5ad", tables[2][1]]
    )
    assert found.gene_ids == ("ENSG1", "ENSG2", "ENSG3", "ENSG5")
    assert found.symbols == ("A", "B", "C", "A-1")
    assert np.array_equal(found.means["Xenium"], [2.5, np.nan, 0.4, 48.2], equal_nan=True)
    whole = from_nicheformer(nicheformer / "model.h5ad", means, [], whole_means=True)
    assert np.array_equal(whole.means["Xenium"], [3, np.nan, 0, 48], equal_nan=True)
    assert whole.symbols == whole.gene_ids


def test_nicheformers_files_of_two_releases_are_refused(nicheformer):
    np.save(nicheformer / "short.npy", np.ones(3))
    (nicheformer / "text.npy").write_text("no")
    np.save(nicheformer / "objects.npy", np.array([{}], object))
    for model, means, code in [
        ("model.h5ad", "short.npy", "length"),
        ("model.h5ad", "text.npy", "unreadable"),
        ("model.h5ad", "objects.npy", "unreadable"),
        ("text.npy", "means.npy", "unreadable"),
    ]:
        paths = nicheformer / model, {"Xenium": nicheformer / means}, []
        assert code_of(lambda p=paths: from_nicheformer(*p)) == f"nicheformer.{code}"


def parse(arguments):
    import argparse

    from ml.tokens.commands import add_commands

    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    return parser.parse_args(arguments)


def test_both_commands(nicheformer, tables, tmp_path, capsys):
    given = parse(["vocab", "build", str(tmp_path / "v"), f"CosMx={tables[1][1]}"])
    assert given.run(given) == 0
    assert json.loads(capsys.readouterr().out)["measured"] == {"CosMx": 2}
    given = parse(
        ["vocab", "import-nicheformer", str(nicheformer / "model.h5ad"),
         str(nicheformer / "means.npy"), str(tmp_path / "n")]
    )  # fmt: skip
    assert given.run(given) == 0
    assert json.loads(capsys.readouterr().out)["measured"] == {"Xenium": 3}
    assert VocabularyFile.load(tmp_path / "n").provenance["nicheformer"] == "model.h5ad"


def test_a_path_names_its_technology(tmp_path):
    (tmp_path / "x=y").mkdir()
    assert named_path("CosMx=a/b") == ("CosMx", Path("a/b"))
    assert named_path(str(tmp_path / "x=y")) == ("Xenium", tmp_path / "x=y")
