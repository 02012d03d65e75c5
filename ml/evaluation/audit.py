"""The audit that parts of a data set do not leak into each other.

Patients, sections, images, and whatever is fitted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.errors import InputError
from ml.evaluation.look_alikes import ALIKE, ALIKE_OF_ONE_PATIENT, Picture, look_alikes
from ml.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ml.models.past import PAST
    from ml.training.corpus import Corpus

# Slides of the last were not among the data that a model was trained with.
PARTS = ("train", "validation", "test", "external")
HELD_OUT_PATIENTS = "held-out patients"
# Sums in other orders differ by rounding; a single further cell of a small study differs by more.
SAME_STATISTIC = 1e-5


@dataclass(frozen=True)
class Unit:
    """A section as the audit sees it."""

    code: str
    patient: str
    part: str
    content: str


def audit(units: Iterable[Unit]) -> str:
    """Check that what is held out is held out, and say what that is.

    Returns:
        ``held-out patients``, or ``held-out section of the same patient`` where all sections are
        of one patient, so that only sections can be held out.

    Raises:
        InputError: ``split.part``, ``split.no_training``, ``split.same_slide`` or
            ``split.patient_in_two_parts``.
    """
    listed = list(units)
    for unit in listed:
        if unit.part not in PARTS:
            raise InputError(
                "split.part",
                f"slide {unit.code}",
                f"Its part is {unit.part!r}.",
                f"Give one of {', '.join(PARTS)}.",
            )
    if not any(unit.part == "train" for unit in listed):
        raise InputError(
            "split.no_training",
            "sections",
            "No section is in the training part.",
            "Put at least one measured slide into it.",
        )
    by_content, by_patient = defaultdict(set), defaultdict(set)
    for unit in listed:
        by_content[unit.content].add(unit.part)
        by_patient[unit.patient].add(unit.part)
    for unit in listed:
        if len(by_content[unit.content]) > 1:
            raise InputError(
                "split.same_slide",
                f"slide {unit.code}",
                "The same slide file is in two parts.",
                "Leave one of them out.",
            )
    same_patient = len(by_patient) == 1
    for patient, parts in by_patient.items():
        if len(parts) > 1 and not same_patient:
            raise InputError(
                "split.patient_in_two_parts",
                f"patient {patient}",
                f"Sections of this patient are in the parts {', '.join(sorted(parts))}.",
                "Put all sections of a patient into one part.",
            )
    return "held-out section of the same patient" if same_patient else HELD_OUT_PATIENTS


def audit_images(pictures: dict[str, list[Picture]], scope: str) -> dict[str, Any]:
    """Check that no two parts show the same tissue; see `ml.evaluation.look_alikes`.

    Args:
        pictures: of the slides of each part.
        scope: what `audit` said.

    Returns:
        pairs that were compared, the highest similarity of them, the limit, and ``too_small``,
        codes of slides with too little tissue to be compared.

    Raises:
        InputError: ``split.look_alike``.
    """
    limit = ALIKE if scope == HELD_OUT_PATIENTS else ALIKE_OF_ONE_PATIENT
    highest, pairs = 0.0, 0
    able = {part: [p for p in some if not p.too_small] for part, some in pictures.items()}
    small = sorted(p.code for some in pictures.values() for p in some if p.too_small)
    for first, second in combinations(able, 2):
        found, most = look_alikes(able[first], able[second], limit)
        highest, pairs = max(highest, most), pairs + len(able[first]) * len(able[second])
        if found:
            one, other, value = max(found, key=lambda pair: pair[2])
            raise InputError(
                "split.look_alike",
                f"slides {one} and {other}",
                f"They show the same tissue (similarity {value:.2f}, limit {limit}), one in the "
                f"{first} part and one in the {second} part."
                + (f" {len(found) - 1} more pairs do." if len(found) > 1 else ""),
                "Give both to one patient, or leave one of them out.",
            )
    return {"pairs": pairs, "highest_similarity": highest, "limit": limit, "too_small": small}


def audit_statistics(model: PAST, train: Corpus) -> dict[str, float]:
    """Check that a model's statistics are those of its training rows and of nothing else.

    They are computed anew from the training part: what was fitted to more differs.

    Args:
        train: the training part, on the model's panel.

    Returns:
        largest deviation of each statistic, relative to its largest value.

    Raises:
        InputError: ``split.statistic_leak``.
    """
    config = model.config
    head = model.networks()[0].expression_head
    mean, scale = train.expression_moments()
    of_model = {
        "non-zero means of the vocabulary": config.vocabulary.nonzero_means,
        "means of the genes": head.mean.cpu().numpy(),
        "deviations of the genes": head.scale.cpu().numpy(),
    }
    symbols = list(config.vocabulary.symbols)
    anew = dict(
        zip(of_model, (Vocabulary.fit(train.counts, symbols).nonzero_means, mean, scale),
            strict=True)
    )  # fmt: skip
    if config.features is not None and not config.per_slide:
        names = ("means of the image features", "deviations of the image features")
        found = (model.feature_mean.cpu().numpy(), model.feature_scale.cpu().numpy())
        of_model |= dict(zip(names, found, strict=True))
        anew |= dict(zip(names, train.feature_moments(), strict=True))
    deviations = {
        name: float(np.nanmax(np.abs(value - anew[name])) / max(np.nanmax(np.abs(value)), 1e-9))
        for name, value in of_model.items()
    }
    worst = max(deviations, key=lambda name: deviations[name])
    if not deviations[worst] <= SAME_STATISTIC:
        raise InputError(
            "split.statistic_leak",
            worst,
            f"They are not those of the training part (deviation {deviations[worst]:.1%}): "
            "something else took part in fitting them.",
            "Train the model again on the training part alone.",
        )
    return deviations
