"""HER2-positive breast tumours by Spatial Transcriptomics, as published, into a study folder.

Source: Andersson et al. 2021, Nature Communications 12, 6012 (repository almaan/her2st). Expected:
``counts/C2.tsv.gz`` (spots ``{x}x{y}`` × gene symbols), ``spots/C2_selection.tsv`` (array position
x, y; refined position new_x, new_y; pixel_x, pixel_y; selected) and ``images/C2_….jpg``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from ml.errors import InputError
from ml.report import Report

PITCH_UM = 200.0
DIAMETER_UM = 100.0
_SPOT_COLUMNS = {"x", "y", "new_x", "new_y", "pixel_x", "pixel_y", "selected"}
_HEAD = {
    "slug": "her2st",
    "name": "HER2+ breast cancer, Spatial Transcriptomics",
    "question": "Which genes can be predicted from the H&E of a section?",
    "limits": "Sections of few patients, spots of about 100 µm (many cells each), no outcomes. "
    "A held-out section of the same patient says nothing about other patients.",
    "source": "Andersson et al. 2021, Nature Communications 12, 6012; github.com/almaan/her2st",
}


def her2st_study(raw: Path, out: Path, report: Report) -> Path:
    """Writes a study folder from the published files; the images are linked, not copied.

    A patient is the letter of a section, a slide the section. Resolution comes from the 200 µm
    pitch of the spot array and is recorded so. Selected spots without counts are left out.

    Args:
        raw: folder with counts/, spots/ and images/.
        out: folder to write.

    Returns:
        `out`.

    Raises:
        InputError: ``her2st.…`` naming the file that is missing or wrong.
    """
    report.stage("Reading her2st")
    images = {path.name.split("_")[0].split(".")[0]: path for path in _images(raw)}
    sections = sorted(s for s in images if (raw / "counts" / f"{s}.tsv.gz").exists())
    if not sections:
        raise InputError(
            "her2st.no_sections",
            str(raw),
            "no section has both an image and counts.",
            "Give the folder that holds counts/, spots/ and images/.",
        )
    (out / "images").mkdir(parents=True)
    (out / "cells").mkdir()
    slides = []
    for number, section in enumerate(sections):
        image = out / "images" / f"{section}{images[section].suffix}"
        image.symlink_to(images[section].resolve())
        mpp = _write_cells(raw, section, out / "cells" / f"{section}.h5ad", report)
        slides.append(_slide_row(section, image, mpp))
        report.progress((number + 1) / len(sections))
    _write_tables(out, sections, slides)
    return out


def _images(raw: Path) -> list[Path]:
    return [p for p in sorted((raw / "images").glob("*")) if p.suffix in {".jpg", ".png", ".tif"}]


def _write_cells(raw: Path, section: str, out: Path, report: Report) -> float:
    """Writes one section's AnnData; returns the microns per pixel of its image."""
    import anndata
    import pandas as pd

    spots = _spots(raw / "spots" / f"{section}_selection.tsv")
    counts = _counts(raw / "counts" / f"{section}.tsv.gz")
    mpp = PITCH_UM / _pitch_pixels(spots)
    spots = spots[spots.selected == 1]
    spots.index = pd.Index(spots.x.astype(str) + "x" + spots.y.astype(str))
    with_counts = spots.index.isin(counts.index)
    if not with_counts.all():
        report.log(
            f"{section}: {int((~with_counts).sum())} selected spots have no counts, left out."
        )
    spots = spots[with_counts]
    table = anndata.AnnData(
        X=sparse.csr_matrix(counts.loc[spots.index].to_numpy(np.float32)),
        obs=pd.DataFrame(index=spots.index),
        var=pd.DataFrame(index=counts.columns),
        obsm={"spatial": spots[["pixel_x", "pixel_y"]].to_numpy(np.float32)},
    )
    table.write_h5ad(out)
    report.log(f"{section}: {table.n_obs} spots × {table.n_vars} genes, {mpp:.4f} µm per pixel.")
    return mpp


def _spots(path: Path) -> Any:
    spots = _table(path)
    missing = _SPOT_COLUMNS - set(spots.columns)
    if missing:
        raise InputError(
            "her2st.columns",
            f"{path.name} row 1",
            f"columns {', '.join(sorted(missing))} are missing.",
            "Take the file as published.",
        )
    return spots


def _counts(path: Path) -> Any:
    return _table(path, index_col=0)


def _table(path: Path, **options: Any) -> Any:
    import pandas as pd

    try:
        return pd.read_csv(path, sep="\t", **options)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(
            "her2st.unreadable",
            f"{path.parent.name}/{path.name}",
            f"the table cannot be read ({type(error).__name__}).",
            "Take the file as published, and check that it is whole.",
        ) from error


def _pitch_pixels(spots: Any) -> float:
    """Pixels per step of the array: the slope of pixel position over refined array position."""
    slopes = [np.polyfit(spots[f"new_{a}"], spots[f"pixel_{a}"], 1)[0] for a in ("x", "y")]
    return float(np.mean(np.abs(slopes)))


def _slide_row(section: str, image: Path, mpp: float) -> dict[str, Any]:
    return {
        "slide": section,
        "patient": section[0],
        "section": section,
        "path": f"images/{image.name}",
        "mpp": mpp,
        "mpp_source": f"{PITCH_UM:.0f} µm spot pitch",
        "cells": f"cells/{section}.h5ad",
        "row_kind": "spot",
        "spot_diameter_um": DIAMETER_UM,
    }


def _write_tables(out: Path, sections: list[str], slides: list[dict[str, Any]]) -> None:
    import pandas as pd

    patients = sorted({section[0] for section in sections})
    pd.DataFrame({"patient": patients}).to_csv(out / "patients.csv", index=False)
    pd.DataFrame(slides).to_csv(out / "slides.csv", index=False)
    (out / "study.json").write_text(json.dumps(_HEAD, ensure_ascii=False), encoding="utf-8")
