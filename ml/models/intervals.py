"""Intervals around predicted expression: split conformal prediction, gene by gene.

Half widths are quantiles of the absolute errors on patients that the model was not fitted to (Lei
et al., J Am Stat Assoc 2018;113:1094). Every patient weighs the same, however many rows it has,
and the level is raised for the number of rows as the method asks. Rows of one patient are alike, so
the guarantee holds for further rows like these; coverage on test patients is reported beside it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

LEVEL = 0.9


class Intervals(nn.Module):
    """Fitted intervals: predicted ± half width, never below 0.

    Buffers: ``half_width`` (genes,) in the unit of predictions, ``level`` () the share of rows
    that the intervals are to hold, ``patients`` () whom they were calibrated on.
    """

    half_width: Tensor
    level: Tensor
    patients: Tensor

    def __init__(self, genes: int) -> None:
        super().__init__()
        self.register_buffer("half_width", torch.zeros(genes))
        self.register_buffer("level", torch.tensor(LEVEL))
        self.register_buffer("patients", torch.tensor(0))

    @classmethod
    def fit(
        cls,
        measured: NDArray[np.floating],
        predicted: NDArray[np.floating],
        patients: NDArray[np.integer],
        level: float = LEVEL,
    ) -> Intervals:
        """Fit to held-out rows.

        Args:
            measured, predicted: (rows, genes).
            patients: (rows,) number of each row's patient.

        Raises:
            ValueError: there is no row.
        """
        if not len(measured):
            raise ValueError("intervals need rows")
        found = cls(measured.shape[1])
        weights = patient_weights(patients)
        widths = [
            weighted_quantile(np.abs(measured[:, g] - predicted[:, g]), weights, level)
            for g in range(measured.shape[1])
        ]
        found.half_width.copy_(torch.tensor(widths))
        found.level.fill_(level)
        found.patients.fill_(len(np.unique(patients)))
        return found

    def covered(
        self, measured: NDArray[np.floating], predicted: NDArray[np.floating]
    ) -> NDArray[np.bool_]:
        """Which values (rows, genes) lie in their interval."""
        within: NDArray[np.bool_] = np.abs(measured - predicted) <= self.half_width.cpu().numpy()
        return within


def patient_weights(patients: NDArray[np.integer]) -> NDArray[np.float64]:
    """Weights (rows,) that add up to 1, and to the same for each patient."""
    _, unit, count = np.unique(patients, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = 1.0 / (count[unit.ravel()] * len(count))
    return weights


def weighted_quantile(
    values: NDArray[np.floating], weights: NDArray[np.float64], level: float
) -> float:
    """The smallest value that holds `level` of the weight, corrected for the number of values.

    With n values of equal weight it is the ⌈(n + 1) level⌉-th smallest; weights that differ count
    as (Σw)² / Σw² equal ones. The largest value where that is more than there are.
    """
    order = np.argsort(values, kind="stable")
    held = np.cumsum(weights[order]) / weights.sum()
    effective = weights.sum() ** 2 / np.square(weights).sum()
    wanted = level * (1 + 1 / effective)
    # Sums of many weights may end a rounding error below what they should.
    place = int(np.searchsorted(held, wanted - 1e-9))
    return float(values[order[min(place, len(values) - 1)]])
