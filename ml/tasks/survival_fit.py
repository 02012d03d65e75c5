"""Ridge Cox risk models with out-of-fold risks, the clinical model always beside the full one.

Every number that the model learns (means, scales, levels, penalty, coefficients) is learned on the
training folds; the penalty is chosen inside them by inner cross-validation on the concordance.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml.errors import InputError
from ml.report import Report
from ml.tasks.concordance import Interval, Pairs, bootstrap, concordance, interval

Floats = npt.NDArray[np.float64]

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # lifelines' penalizer, on standardised covariates
INNER_FOLDS = 3
MOST_COLUMNS = 200
FEWEST_EVENTS = 10
RISK_UNIT = "percentile of the training folds' risk"


@dataclass(frozen=True)
class Design:
    """How columns become standardised covariates; learned on the rows it was fitted on."""

    columns: tuple[str, ...]
    levels: dict[str, tuple[str, ...]]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    names: tuple[str, ...]

    @classmethod
    def fit(cls, frame: pd.DataFrame, columns: list[str]) -> Design:
        levels = {
            column: tuple(sorted(frame[column].astype(str).unique()))
            for column in columns
            if not pd.api.types.is_numeric_dtype(frame[column])
        }
        values, names = _expanded(frame, columns, levels)
        scale = values.std(0)
        return cls(
            tuple(columns),
            levels,
            tuple(values.mean(0).tolist()),
            tuple(np.where(scale > 0, scale, 1.0).tolist()),
            tuple(names),
        )

    def transform(self, frame: pd.DataFrame) -> Floats:
        values, _ = _expanded(frame, list(self.columns), self.levels)
        return np.asarray((values - np.array(self.mean)) / np.array(self.scale), np.float64)


def _expanded(
    frame: pd.DataFrame, columns: list[str], levels: dict[str, tuple[str, ...]]
) -> tuple[Floats, list[str]]:
    """Numbers as they are, categories as indicators of every level but the first."""
    parts: list[Floats] = []
    names: list[str] = []
    for column in columns:
        if column in levels:
            text = frame[column].astype(str).to_numpy()
            for level in levels[column][1:]:
                parts.append((text == level).astype(np.float64))
                names.append(f"{column}={level}")
        else:
            parts.append(frame[column].to_numpy(np.float64))
            names.append(column)
    return (np.stack(parts, 1) if parts else np.zeros((len(frame), 0))), names


@dataclass(frozen=True)
class RidgeCox:
    design: Design
    beta: Floats
    penalty: float

    @classmethod
    def fit(cls, frame: pd.DataFrame, columns: list[str], penalty: float) -> RidgeCox:
        from lifelines import CoxPHFitter

        design = Design.fit(frame, columns)
        x = design.transform(frame)
        varying = x.std(0) > 0
        beta = np.zeros(x.shape[1])
        if varying.any():
            table = pd.DataFrame(x[:, varying], columns=[f"x{i}" for i in range(varying.sum())])
            table["time"], table["event"] = frame["time"].to_numpy(), frame["event"].to_numpy()
            late = bool((frame["entry"] > 0).any())
            if late:
                # An entry at 0 is "from the start": lifelines wants it before an event at 0.
                table["entry"] = np.where(frame["entry"] > 0, frame["entry"], -1.0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # low variance of rare levels: the ridge holds them
                fitted = CoxPHFitter(penalizer=penalty).fit(
                    table, "time", "event", entry_col="entry" if late else None
                )
            beta[varying] = fitted.params_.to_numpy(np.float64)
        return cls(design, beta, penalty)

    def risk(self, frame: pd.DataFrame) -> Floats:
        """Log hazard relative to the average training patient."""
        return np.asarray(self.design.transform(frame) @ self.beta, np.float64)

    @classmethod
    def tuned(cls, frame: pd.DataFrame, columns: list[str], rng: np.random.Generator) -> RidgeCox:
        """Penalty with the best inner cross-validated concordance; ties go to the stronger one."""
        from lifelines.exceptions import ConvergenceError

        folds = split(frame["event"].to_numpy(bool), INNER_FOLDS, rng)
        pairs = _pairs(frame, folds)
        best, chosen = -np.inf, PENALTIES[-1]
        for penalty in reversed(PENALTIES):
            risk = np.zeros(len(frame))
            try:
                for fold in range(INNER_FOLDS):
                    held = folds == fold
                    risk[held] = cls.fit(frame[~held], columns, penalty).risk(frame[held])
            except ConvergenceError:
                break  # weaker penalties converge even less
            score = concordance(pairs, risk)
            if score > best + 1e-9:
                best, chosen = score, penalty
        return cls.fit(frame, columns, chosen)

    def as_dict(self) -> dict[str, Any]:
        return {
            "penalty": self.penalty,
            "levels": self.design.levels,
            "covariates": [
                {"name": name, "log_hazard_per_sd": float(b), "mean": mean, "sd": scale}
                for name, b, mean, scale in zip(
                    self.design.names, self.beta, self.design.mean, self.design.scale, strict=True
                )
            ],
        }


def split(
    event: npt.NDArray[np.bool_], folds: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Fold of each patient; events and censored are dealt out evenly."""
    out = np.zeros(len(event), np.int64)
    dealt = 0
    for kind in (True, False):
        rows = rng.permutation(np.flatnonzero(event == kind))
        out[rows] = (np.arange(len(rows)) + dealt) % folds
        dealt += len(rows)
    return out


def _pairs(frame: pd.DataFrame, fold: npt.NDArray[np.int64]) -> Pairs:
    return Pairs.of(
        frame["time"].to_numpy(np.float64),
        frame["event"].to_numpy(bool),
        frame["entry"].to_numpy(np.float64),
        fold,
    )


def run(
    params: dict[str, Any], inputs: dict[str, Any], out: Path, report: Report
) -> dict[str, Any]:
    """Fit and cross-validate. Job kind `fit_survival`.

    Args:
        params: endpoint (code), clinical and features (columns of the cohort), folds, seed.
        inputs: cohort, a parquet: patient, entry, time (months), event, and those columns.

    Writes risks.parquet (index patient; risk and risk_clinical in `RISK_UNIT`, 0–100, and fold) and
    model.json (both models refitted on everybody) into `out`.

    Raises:
        InputError: fit.columns, fit.too_many_columns, fit.too_few_events, fit.folds.
    """
    clinical = [str(name) for name in params.get("clinical", ())]
    features = [str(name) for name in params.get("features", ())]
    folds, seed = int(params.get("folds", 5)), int(params.get("seed", 1))
    cohort = pd.read_parquet(inputs["cohort"])
    frame, left_out = _complete(cohort, clinical + features)
    _check(frame, clinical + features, folds)
    models = {"risk": clinical + features}
    if clinical and features:
        models["risk_clinical"] = clinical

    rng = np.random.default_rng(seed)
    fold = split(frame["event"].to_numpy(bool), folds, rng)
    raw = {name: np.zeros(len(frame)) for name in models}
    percentile = {name: np.zeros(len(frame)) for name in models}
    report.stage("cross-validation")
    for index in range(folds):
        held = fold == index
        for name, columns in models.items():
            model = RidgeCox.tuned(frame[~held], columns, rng)
            raw[name][held] = model.risk(frame[held])
            trained = np.sort(model.risk(frame[~held]))
            percentile[name][held] = (
                100 * np.searchsorted(trained, raw[name][held], side="right") / len(trained)
            )
        report.progress((index + 1) / (folds + 1))

    metrics = _metrics(frame, fold, raw, seed)
    for key in ("risk", "risk_clinical"):
        if key in metrics["concordance"]:
            report.metric(f"concordance_{key}", metrics["concordance"][key]["value"])
    report.stage("final model")
    final = {name: RidgeCox.tuned(frame, columns, rng) for name, columns in models.items()}
    metrics |= {
        "n": len(frame),
        "events": int(frame["event"].sum()),
        "folds": folds,
        "left_out_incomplete": left_out,
    }
    _write(
        out,
        frame,
        fold,
        percentile,
        {
            "endpoint": params["endpoint"],
            "clinical": clinical,
            "features": features,
            "seed": seed,
            "models": {name: model.as_dict() for name, model in final.items()},
            "metrics": metrics,
        },
    )
    report.progress(1.0)
    return {
        "risks": "risks.parquet",
        "model": "model.json",
        "unit": RISK_UNIT,
        "columns": list(models),
        "n_patients": len(frame),
        "metrics": metrics,
    }


def _complete(cohort: pd.DataFrame, columns: list[str]) -> tuple[pd.DataFrame, int]:
    """Patients with every column known: both models are then compared on the same patients."""
    missing = [column for column in columns if column not in cohort.columns]
    if missing:
        raise InputError(
            "fit.columns",
            "cohort",
            f"There is no column {missing[0]!r}.",
            "Choose columns of this study.",
        )
    known = cohort["time"].notna() & cohort[columns].notna().all(axis=1)
    known &= (cohort["entry"] < cohort["time"]) | (cohort["entry"] == 0)
    frame = cohort[known].reset_index(drop=True)
    return frame, int((~known).sum())


def _check(frame: pd.DataFrame, columns: list[str], folds: int) -> None:
    if not columns:
        raise InputError(
            "fit.columns",
            "columns",
            "There is nothing to fit on.",
            "Choose at least one clinical column or gene.",
        )
    if len(columns) > MOST_COLUMNS:
        raise InputError(
            "fit.too_many_columns",
            "columns",
            f"{len(columns)} columns are more than the {MOST_COLUMNS} that a Cox model takes here.",
            "Choose fewer.",
        )
    if not 2 <= folds <= 10:
        raise InputError("fit.folds", "folds", f"{folds} folds.", "Choose 2 to 10.")
    events = int(frame["event"].sum())
    if events < max(FEWEST_EVENTS, 2 * folds):
        raise InputError(
            "fit.too_few_events",
            "cohort",
            f"{events} of {len(frame)} patients with complete data had the event; "
            f"{max(FEWEST_EVENTS, 2 * folds)} are needed.",
            "Choose columns with fewer missing values, fewer folds, or another endpoint.",
        )


def _metrics(
    frame: pd.DataFrame, fold: npt.NDArray[np.int64], risks: dict[str, Floats], seed: int
) -> dict[str, Any]:
    """Out-of-fold Harrell C with bootstrap intervals, and the gain over the clinical model."""
    pairs = _pairs(frame, fold)
    draws = bootstrap(pairs, risks, len(frame), seed)
    values = {name: concordance(pairs, risk) for name, risk in risks.items()}
    found: dict[str, Any] = {
        "concordance": {n: _as_dict(interval(values[n], draws[n])) for n in risks}
    }
    if "risk_clinical" in risks:
        gain = values["risk"] - values["risk_clinical"]
        found["gain_over_clinical"] = _as_dict(
            interval(gain, draws["risk"] - draws["risk_clinical"])
        )
    return found


def _as_dict(found: Interval) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high}


def _write(
    out: Path,
    frame: pd.DataFrame,
    fold: npt.NDArray[np.int64],
    risks: dict[str, Floats],
    model: dict[str, Any],
) -> None:
    table = pd.DataFrame(risks, index=pd.Index(frame["patient"].astype(str), name="patient"))
    table["fold"] = fold
    partial = out / "risks.parquet.partial"
    table.to_parquet(partial)
    partial.replace(out / "risks.parquet")
    partial = out / "model.json.partial"
    partial.write_text(json.dumps(model, indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(out / "model.json")
