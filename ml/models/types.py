"""Cell types from embeddings: a linear probe whose probabilities are calibrated.

The probe is a multinomial logistic regression on standardised inputs (Alain and Bengio, arXiv
1610.01644); its logits are divided by one temperature that is fitted on other patients than those
it was trained on (Guo et al., arXiv 1706.04599).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional

# From strong to weak: each solution is where the next search starts.
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
FOLDS = 3
# No type is named below this probability.
ABSTAIN_BELOW = 0.5
_STEPS = 60
_TEMPERATURES = (0.05, 20.0)


class TypeProbe(nn.Module):
    """A fitted probe.

    Buffers: ``mean``, ``scale`` (inputs,) of the training rows; ``weight`` (types, inputs) and
    ``bias`` (types,) on standardised inputs; ``temperature`` () that logits are divided by.

    Attributes:
        names: types in the order of the codes.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    temperature: Tensor

    def __init__(self, names: Sequence[str], inputs: int) -> None:
        super().__init__()
        self.names = list(names)
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("weight", torch.zeros(len(self.names), inputs))
        self.register_buffer("bias", torch.zeros(len(self.names)))
        self.register_buffer("temperature", torch.tensor(1.0))

    @classmethod
    def fit(cls, rows: Tensor, codes: Tensor, names: Sequence[str], penalty: float) -> TypeProbe:
        """Fit to rows (n, inputs) with codes (n,); the temperature is still to be set.

        Args:
            penalty: half of it times the squared weights is added to the mean log loss.
        """
        probe = cls(names, rows.shape[1])
        probe._standardise_by(rows)
        probe.to(rows.device)
        probe._solve(probe.standardised(rows), codes, penalty)
        return probe

    def logits(self, rows: Tensor) -> Tensor:
        """Uncalibrated logits (n, types) of rows (n, inputs)."""
        return self.standardised(rows) @ self.weight.T + self.bias

    def probabilities(self, rows: Tensor) -> Tensor:
        """Calibrated probabilities (n, types) of rows (n, inputs)."""
        return (self.logits(rows) / self.temperature).softmax(1)

    def calibrate(self, rows: Tensor, codes: Tensor, weights: Tensor | None = None) -> None:
        """Set the temperature on rows (n, inputs) of patients that the probe has not seen."""
        found = fitted_temperature(self.logits(rows), codes, weights)
        self.temperature.fill_(found)

    def _standardise_by(self, rows: Tensor) -> None:
        self.mean = rows.mean(0)
        scale = rows.std(0, unbiased=False)
        # An input that does not vary carries nothing; dividing by 1 keeps it at zero.
        self.scale = torch.where(scale > 1e-6, scale, torch.ones_like(scale))

    def standardised(self, rows: Tensor) -> Tensor:
        """Rows (n, inputs) in deviations of the training rows."""
        return (rows - self.mean) / self.scale

    def _solve(self, x: Tensor, codes: Tensor, penalty: float) -> None:
        """Minimise from where the weights are now; x (n, inputs) is standardised."""
        weight = self.weight.clone().requires_grad_()
        bias = self.bias.clone().requires_grad_()
        optimiser = torch.optim.LBFGS(
            [weight, bias],
            max_iter=_STEPS,
            history_size=10,
            tolerance_grad=1e-5,
            tolerance_change=1e-7,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            optimiser.zero_grad()
            found = functional.cross_entropy(x @ weight.T + bias, codes)
            found = found + 0.5 * penalty * weight.square().sum()
            torch.autograd.backward(found)
            return found

        with torch.enable_grad():
            optimiser.step(loss)  # type: ignore[no-untyped-call]
        self.weight, self.bias = weight.detach(), bias.detach()


def choose_penalty(
    rows: Tensor, codes: Tensor, patients: NDArray[np.int64], names: Sequence[str]
) -> float:
    """The penalty with the lowest mean log loss on training patients that are left out in turn.

    Args:
        rows, codes: (n, inputs) and (n,) of the training rows.
        patients: (n,) number of each row's patient; folds hold whole patients.

    Returns:
        one of `PENALTIES`; the strongest where there is only one patient to learn from.
    """
    distinct = np.unique(patients)
    folds = min(FOLDS, len(distinct))
    if folds < 2:
        return PENALTIES[0]
    fold_of = dict(zip(distinct.tolist(), (np.arange(len(distinct)) % folds).tolist(), strict=True))
    fold = np.array([fold_of[patient] for patient in patients.tolist()])
    losses = np.zeros(len(PENALTIES))
    for left_out in range(folds):
        out = torch.from_numpy(fold == left_out).to(rows.device)
        probe = TypeProbe(names, rows.shape[1])
        probe._standardise_by(rows[~out])
        probe.to(rows.device)
        inside = probe.standardised(rows[~out])
        for number, penalty in enumerate(PENALTIES):
            probe._solve(inside, codes[~out], penalty)
            losses[number] += float(functional.cross_entropy(probe.logits(rows[out]), codes[out]))
    return PENALTIES[int(np.argmin(losses))]


def fitted_temperature(logits: Tensor, codes: Tensor, weights: Tensor | None = None) -> float:
    """The temperature with the lowest log loss: logits (n, types) and codes (n,) → one number.

    Args:
        weights: (n,) of the rows; None: all count the same.
    """
    scores, of = logits.double(), torch.arange(len(codes), device=codes.device)
    share = torch.ones(len(codes), dtype=torch.float64, device=scores.device)
    share = share if weights is None else weights.double()
    share = share / share.sum()

    def loss(log_temperature: float) -> float:
        likelihood = (scores / float(np.exp(log_temperature))).log_softmax(1)[of, codes]
        return -float((share * likelihood).sum())

    low, high = np.log(_TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def nearest_votes(
    reference: Tensor, codes: Tensor, queries: Tensor, types: int, neighbours: int
) -> Tensor:
    """Share of each type among the nearest reference rows: (queries, types).

    Args:
        reference: (n, inputs) rows with labels `codes` (n,).
        queries: (m, inputs).
        neighbours: reference rows that vote, by Euclidean distance.
    """
    count = min(neighbours, len(reference))
    half = 0.5 * reference.square().sum(1)
    labels = functional.one_hot(codes, types).to(queries.dtype)
    found = []
    for block in torch.split(queries, max(1, 2**25 // max(len(reference), 1))):
        # Order by |q − r|² is order by r·r/2 − q·r.
        near = torch.addmm(half, block, reference.T, beta=-1).topk(count, dim=1).indices
        found.append(labels[near].mean(1))
    return torch.cat(found) if found else queries.new_zeros((0, types))
