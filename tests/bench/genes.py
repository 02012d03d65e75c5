"""One gene of a million cells from the server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sparse

from tests.bench.registry import Row, benchmark
from tests.bench.studies import PYRAMID, write_tables
from tests.instance import Instance
from tests.session import Session

CELLS = 1_000_000
GENES = 50
SIDE = 16_384


@benchmark("gene_column_server")
def gene_column_server(folder: Path) -> Iterator[Row]:
    """p95 in ms over two rounds of all genes, one request at a time."""
    study = _write_study(folder / "study")
    with Instance(folder / "var") as app:
        app.manage("import_study", str(study))
        session = Session.login(app.url, "admin")
        slide = session.get("/api/v1/studies/bench-genes/slides/")["results"][0]
        table = session.get(f"/api/v1/slides/{slide['id']}/")["tables"][0]
        latencies = []
        for gene in [f"G{i}" for i in range(GENES)] * 2:
            start = time.perf_counter()
            body = session.open(f"/api/v1/cell-tables/{table['id']}/expression/{gene}/")
            latencies.append(time.perf_counter() - start)
            if len(body) < CELLS:
                raise RuntimeError(f"{gene} came back with {len(body)} bytes for {CELLS} cells")
        yield Row("gene_column_server", float(np.percentile(latencies, 95) * 1000), "ms")


def _write_study(folder: Path) -> Path:
    import anndata
    import pandas as pd
    import pyvips

    (folder / "slides").mkdir(parents=True)
    (folder / "cells").mkdir()
    pyvips.Image.black(SIDE, SIDE, bands=3).copy(
        interpretation="srgb", xres=2000, yres=2000
    ).tiffsave(str(folder / "slides/s.tif"), compression="jpeg", **PYRAMID)
    rng = np.random.default_rng(0)
    counts = sparse.random(
        CELLS,
        GENES,
        density=0.15,
        format="csr",
        rng=rng,
        dtype=np.float32,
        data_rvs=lambda size: rng.integers(1, 9, size).astype(np.float32),
    )
    anndata.AnnData(
        X=counts,
        obs=pd.DataFrame(index=[str(i) for i in range(CELLS)]),
        var=pd.DataFrame(index=[f"G{i}" for i in range(GENES)]),
        obsm={"spatial": rng.uniform(0, SIDE, (CELLS, 2)).astype(np.float32)},
    ).write_h5ad(folder / "cells/s.h5ad")
    return write_tables(folder, "bench-genes", ["s"], with_cells=True)
