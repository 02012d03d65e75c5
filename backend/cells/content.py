"""What import and prediction say about a cell table they wrote."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class CellTableContent(BaseModel):
    """`path` is relative to the job's output folder; `n_genes` 0 means positions only."""

    path: str
    n_rows: int
    n_genes: int = 0
    row_kind: Literal["cell", "spot"]
    panel_hash: str = ""
    spot_diameter_um: float | None = None
    source: str
