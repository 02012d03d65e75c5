"""The card of a model in files."""

from __future__ import annotations

import json
from pathlib import Path

from ml.evaluation.card_text import model_markdown
from ml.io.store import content_hash
from ml.models.checkpoint import CONFIG


def model_card(model: Path, evaluation: Path) -> str:
    """The card of a model folder with the evaluation/ folder of `past evaluate`."""
    config = json.loads((model / CONFIG).read_text(encoding="utf-8"))
    report = json.loads((evaluation / "report.json").read_text(encoding="utf-8"))
    sha256 = content_hash(model)[0]
    return model_markdown(
        {
            "name": f"PAST model {sha256[:12]}",
            "sha256": sha256,
            "config": config,
            "evaluations": report["evaluations"],
            "audit": report["audit"],
            "sections": config["provenance"].get("sections", []),
        }
    )
