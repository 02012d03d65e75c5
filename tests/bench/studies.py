"""Studies of noise that benchmarks import."""

from __future__ import annotations

import json
from pathlib import Path

PYRAMID = {"tile": True, "pyramid": True, "tile_width": 256, "tile_height": 256}


def write_tables(folder: Path, slug: str, codes: list[str], *, with_cells: bool = False) -> Path:
    """The tables of a study of one patient, beside slides/CODE.tif at 0.5 µm/px (and cells/)."""
    head = {"slug": slug, "name": "Bench", "synthetic": True}
    (folder / "study.json").write_text(json.dumps(head))
    (folder / "patients.csv").write_text("patient,site\nP1,A\n")
    rows = [
        f"{code},P1,H&E,slides/{code}.tif,0.5,bench,"
        + (f"cells/{code}.h5ad,cell" if with_cells else ",")
        for code in codes
    ]
    head_row = "slide,patient,stain,path,mpp,mpp_source,cells,row_kind"
    (folder / "slides.csv").write_text("\n".join([head_row, *rows, ""]))
    return folder
