"""Nicheformer's own vocabulary, and tokens of real Xenium cells with it."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from ml.tokens.build import from_nicheformer
from ml.tokens.files import VocabularyFile
from ml.tokens.rank import auxiliary, tokenise

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def vocabulary(real_data, tmp_path_factory):
    files = real_data / "genes" / "nicheformer"
    found = from_nicheformer(
        files / "model.h5ad",
        {"Xenium": files / "xenium_mean_script.npy"},
        sorted((real_data / "genes" / "xenium_panels").glob("*.h5ad")),
    )
    folder = tmp_path_factory.mktemp("vocabulary") / "nicheformer"
    found.save(folder)
    return VocabularyFile.load(folder)


def test_it_has_the_published_size(vocabulary):
    """20,310 genes and 30 reserved ids are the 20,340 of the published cell encoder."""
    assert len(vocabulary.technology("Xenium")) == 20_340
    assert np.isfinite(vocabulary.means["Xenium"]).sum() == 20_310 - 18_575
    assert vocabulary.id_of["ERBB2"] == "ENSG00000141736"
    assert vocabulary.symbol_of["ENSG00000148773"] == "MKI67"


def test_cells_of_the_breast_panel_are_tokenised(real_data, vocabulary):
    panel = anndata.read_h5ad(real_data / "genes" / "xenium_panels" / "human-breast-panel.h5ad")
    counts = csr_matrix(panel.layers["counts"])
    xenium = vocabulary.technology("Xenium")
    genes = xenium.places(list(panel.var_names), "panel", [str(i) for i in panel.var["gene_ids"]])
    assert (genes >= 0).mean() > 0.95
    tokens = tokenise(counts, genes, xenium, 297)
    rows = tokens.padded(300, auxiliary("Xenium"))
    assert rows.shape == (panel.n_obs, 300) and (rows[:, :3] == [4, 9, 5]).all()
    cell = counts[0].toarray().ravel()
    ratio = {
        gene: cell[column] / (xenium.nonzero_means[gene] if xenium.nonzero_means[gene] > 0 else 1)
        for column, gene in enumerate(genes)
        if gene >= 0 and cell[column]
    }
    expected = sorted(ratio, key=lambda gene: (-ratio[gene], gene))
    assert rows[0, 3 : 3 + len(expected)].tolist() == [gene + 30 for gene in expected]
