"""Pearson gene by gene on a study's own page: the model in use, its rivals, and the null twins."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from backend.accounts.models import User
from backend.registry.evaluation_page import verdict
from backend.registry.models import ModelVersion, Part
from backend.registry.selectors import evaluation_of, gene_scores, held_out_label
from backend.studies.models import Study

TWINS = {"permuted": "null twin: counts permuted", "shifted": "null twin: counts shifted"}


def scores_picture(user: User, study: Study, model: ModelVersion | None) -> dict[str, Any] | None:
    """What the landing page draws of the model's held-out scores; None where there are none.

    Returns:
        name, genes (of each the Pearson of the model, its baselines and the ceiling), titles and
        oracles as on the evaluation page, controls, twins (name → Pearson per gene of the models in
        use in the study's null twins, as far as `user` may see them), verdict, what the scores were
        measured on, and the address of the whole evaluation.
    """
    evaluation = evaluation_of(model, Part.TEST) if model else None
    if model is None or evaluation is None:
        return None
    metrics = evaluation.metrics
    baselines = metrics.get("baselines", {})
    genes = [
        {name: value for name, value in row.items() if name == "pcc" or name.endswith("_pcc")}
        for row in gene_scores(evaluation)
    ]
    return {
        "name": model.name,
        "genes": genes,
        "titles": {k: b.get("title", k.replace("_", " ")) for k, b in baselines.items()},
        "oracles": [k for k, b in baselines.items() if not b.get("fair", True)],
        "controls": metrics.get("controls", {}),
        "twins": _twins(user, study) if study.synthetic else {},
        "verdict": verdict(metrics),
        "scored_on": held_out_label(model.dataset, Part.TEST),
        "url": reverse("evaluation", args=[model.pk]),
    }


def _twins(user: User, study: Study) -> dict[str, list[float]]:
    found = {}
    slugs = {f"{study.slug}-{name}": label for name, label in TWINS.items()}
    models = (
        ModelVersion.objects.visible_to(user)
        .filter(study__slug__in=slugs, status=ModelVersion.Status.PROMOTED)
        .select_related("study", "dataset")
    )
    for model in models:
        evaluation = evaluation_of(model, Part.TEST)
        if evaluation is not None:
            values = [row["pcc"] for row in gene_scores(evaluation) if row["pcc"] is not None]
            found[slugs[model.study.slug]] = values
    return found
