"""Splitting a cohort into strata: by the levels of a category, or a number by cut-offs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ml.errors import InputError

MOST_STRATA = 8  # as many as there are colours and dashes that one can tell apart


class Cut(StrEnum):
    """How a stratifier becomes strata."""

    NONE = "none"
    LEVELS = "levels"
    MEDIAN = "median"
    TERTILES = "tertiles"
    QUARTILES = "quartiles"
    VALUE = "value"


_QUANTILES: dict[Cut, tuple[tuple[str, float], ...]] = {
    Cut.MEDIAN: (("median", 1 / 2),),
    Cut.TERTILES: (("first tertile", 1 / 3), ("second tertile", 2 / 3)),
    Cut.QUARTILES: (
        ("first quartile", 1 / 4),
        ("median", 1 / 2),
        ("third quartile", 3 / 4),
    ),
}
_NAMES: dict[int, tuple[str, ...]] = {
    2: ("Low", "High"),
    3: ("Low", "Middle", "High"),
    4: ("Q1", "Q2", "Q3", "Q4"),
}


@dataclass(frozen=True)
class Cutoff:
    """A value that divides strata: the lower stratum takes the value itself.

    `from_data` says that it was taken from the very patients that it divides.
    """

    value: float
    name: str
    from_data: bool


@dataclass(frozen=True)
class Strata:
    """`group` (n,) indexes `labels`; -1 where the stratifier is missing."""

    labels: tuple[str, ...]
    group: npt.NDArray[np.int64]
    cutoffs: tuple[Cutoff, ...] = ()
    notes: tuple[str, ...] = ()


def stratify_number(
    values: npt.ArrayLike, cut: Cut, *, value: float | None = None, unit: str = ""
) -> Strata:
    """Divide numbers (n,; NaN missing) at quantiles of themselves, or at `value`.

    Quantiles are numpy's linear ones (R's type 7). Equal values never part: a stratum holds what
    is ≤ its upper cut-off. Quantiles that coincide are merged, and the notes say so.

    Raises:
        InputError: survival.cut (not a cut for numbers), survival.no_value, survival.one_group.
    """
    numbers = np.asarray(values, np.float64)
    known = np.isfinite(numbers)
    cutoffs, notes = _cutoffs(numbers[known], cut, value)
    bounds = [cutoff.value for cutoff in cutoffs]
    group = np.where(known, np.searchsorted(bounds, numbers, side="left"), -1)
    if len(np.unique(group[known])) < 2:
        low, high = (f"{f(numbers[known]):g}" if known.any() else "–" for f in (np.min, np.max))
        raise InputError(
            "survival.one_group",
            "cut-off",
            f"Every patient falls on the same side (values run from {low} to {high}).",
            "Choose another cut-off or another stratifier.",
        )
    return Strata(_number_labels(bounds, unit), group.astype(np.int64), cutoffs, notes)


def _cutoffs(
    known: npt.NDArray[np.float64], cut: Cut, value: float | None
) -> tuple[tuple[Cutoff, ...], tuple[str, ...]]:
    if cut is Cut.VALUE:
        if value is None or not np.isfinite(value):
            raise InputError(
                "survival.no_value",
                "value",
                "A cut-off was asked for, but none is given.",
                "Give the value at which to divide.",
            )
        return (Cutoff(float(value), "given value", False),), ()
    if cut not in _QUANTILES:
        raise InputError(
            "survival.cut",
            "cut",
            f"A number cannot be divided by {cut.value!r}.",
            "Use median, tertiles, quartiles or value.",
        )
    if not len(known):
        return (), ()
    found: list[Cutoff] = []
    merged: list[str] = []
    for name, share in _QUANTILES[cut]:
        at = float(np.quantile(known, share))
        if at >= known.max() or (found and at <= found[-1].value):
            merged.append(name)
        else:
            found.append(Cutoff(at, name, True))
    notes = tuple(
        f"The {name} divides nobody, because many patients share one value." for name in merged
    )
    return tuple(found), notes


def _number_labels(bounds: Sequence[float], unit: str) -> tuple[str, ...]:
    shown = _shortest_distinct(bounds)
    tail = f" {unit}" if unit else ""
    ranges = [f"≤ {shown[0]}{tail}"] if shown else ["all"]
    ranges += [f"> {low} to {high}{tail}" for low, high in pairwise(shown)]
    ranges += [f"> {shown[-1]}{tail}"] if shown else []
    if len(ranges) not in _NAMES:
        return tuple(ranges)
    return tuple(f"{n} ({r})" for n, r in zip(_NAMES[len(ranges)], ranges, strict=True))


def _shortest_distinct(bounds: Sequence[float]) -> list[str]:
    """Three significant digits, or as many as it takes to tell the cut-offs apart."""
    for digits in range(3, 17):
        shown = [shown_number(bound, digits) for bound in bounds]
        if len(set(shown)) == len(shown):
            return shown
    return [repr(bound) for bound in bounds]


def shown_number(value: float, digits: int = 3) -> str:
    """Significant digits, whole numbers in full, with a true minus sign."""
    text = f"{value:.0f}" if value == int(value) else f"{value:.{digits}g}"
    return text.replace("-", "−") if "e" not in text else text


def stratify_levels(
    values: Sequence[str | None], levels: Sequence[str] = (), *, chosen: Sequence[str] = ()
) -> Strata:
    """One stratum per level of a category (None or "" missing), in the order of `levels`.

    Args:
        levels: the column's ordered levels; values beyond them follow in alphabetical order.
        chosen: keep these levels only; the others count as missing. Empty: all of them.

    Raises:
        InputError: survival.one_group, survival.too_many_groups, survival.level.
    """
    seen = {value for value in values if value}
    order = [level for level in levels if level in seen]
    order += sorted(seen.difference(levels))
    unknown = [level for level in chosen if level not in order]
    if unknown:
        raise InputError(
            "survival.level",
            "levels",
            f"No patient has {unknown[0]!r}.",
            f"Choose among: {', '.join(order)}.",
        )
    kept = [level for level in order if not chosen or level in chosen]
    if len(kept) < 2:
        raise InputError(
            "survival.one_group",
            "stratifier",
            f"Every patient has the same value ({', '.join(kept) or 'none'}).",
            "Choose another stratifier.",
        )
    if len(kept) > MOST_STRATA:
        raise InputError(
            "survival.too_many_groups",
            "stratifier",
            f"{len(kept)} levels are more than {MOST_STRATA} curves that one can tell apart.",
            f"Choose up to {MOST_STRATA} of them.",
        )
    index = {level: position for position, level in enumerate(kept)}
    group = np.array([index.get(value or "", -1) for value in values], np.int64)
    return Strata(tuple(kept), group)
