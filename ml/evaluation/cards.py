"""The card of a model in files."""

from __future__ import annotations

import json
from pathlib import Path

from ml.evaluation.card_text import model_markdown
from ml.models.checkpoint import CONFIG


def model_card(model: Path, evaluation: Path) -> str:
    """The card of a model folder with the evaluation/ folder of `past evaluate`."""
    config = json.loads((model / CONFIG).read_text(encoding="utf-8"))
    report = json.loads((evaluation / "report.json").read_text(encoding="utf-8"))
    return model_markdown(
        {
            "name": f"PAST model {model}",
            "config": config,
            "evaluations": report["evaluations"],
            "audit": report["audit"],
            "sections": config["provenance"].get("sections", []),
        }
    )
