"""Kaplan–Meier figures: a Plotly figure for the page, an SVG for publication.

Strata differ by dash as well as by colour (Okabe & Ito's palette, darkest first).
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ml.tasks.survival import Curve
from ml.tasks.survival_analysis import Analysis
from ml.tasks.survival_compare import Floats
from ml.tasks.survival_report import format_p, format_ratio, labels, time_axis, title

# Okabe & Ito 2008 without yellow, which cannot be seen on white; grey as the eighth.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#A8568A",
    "#000000",
    "#B57700",
    "#3A8FC0",
    "#6B6B6B",
)
# The same sequence in Plotly's and matplotlib's words.
DASHES = (
    "solid",
    "8px,4px",
    "2px,3px",
    "8px,3px,2px,3px",
    "14px,4px",
    "5px,2px",
    "1px,2px",
    "12px,3px,2px,3px,2px,3px",
)
_MATPLOTLIB_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 2.5)),
    (0, (1.2, 1.8)),
    (0, (5, 2, 1.2, 2)),
    (0, (9, 2.5)),
    (0, (3, 1.2)),
    (0, (0.7, 1.2)),
    (0, (8, 2, 1.2, 2, 1.2, 2)),
)
_RIGHT = 0.03  # of the axis, beyond the last tick or follow-up


def style(index: int) -> tuple[str, str]:
    """Colour (#rrggbb) and Plotly dash of the stratum at `index`."""
    return COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]


def axis_end(analysis: Analysis) -> float:
    """Last month drawn: the end of follow-up or the last tick, whichever is later."""
    followed = max(float(curve.time[-1]) for curve in analysis.result.curves)
    return max(followed, float(analysis.result.table.ticks[-1])) * (1 + _RIGHT)


def plotly_figure(analysis: Analysis) -> dict[str, Any]:
    """Traces and layout for Plotly, survival in percent.

    The axis ticks are the at-risk table's, so that the page can set its columns under them. Traces
    carry `legendgroup` = stratum position and `meta.part` = band, curve, tail or censored.
    """
    data: list[dict[str, Any]] = []
    for index, curve in enumerate(analysis.result.curves):
        data += _traces(index, curve)
    ticks = analysis.result.table.ticks.tolist()
    end = axis_end(analysis)
    grid = {"gridcolor": "#e6ebee", "zeroline": False, "linecolor": "#5f6d77"}
    return {
        "data": data,
        "layout": {
            "xaxis": {
                "title": {"text": time_axis(analysis.question)},
                "range": [0, end],
                "tickvals": ticks,
                "ticks": "outside",
                "showline": True,
                **grid,
            },
            "yaxis": {
                "title": {"text": "Without event (%)"},
                "range": [0, 101],
                "tickvals": [0, 25, 50, 75, 100],
                "ticks": "outside",
                "showline": True,
                **grid,
            },
            "hovermode": False,
            "showlegend": len(analysis.result.curves) > 1,
            "paper_bgcolor": "#ffffff",
            "plot_bgcolor": "#ffffff",
            "meta": {"labels": labels(analysis.question), "title": title(analysis.question)},
        },
    }


def _traces(index: int, curve: Curve) -> list[dict[str, Any]]:
    colour, dash = style(index)
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    name = f"{curve.label} ({curve.events}/{curve.n})"
    common = {"type": "scatter", "legendgroup": str(index), "name": name}
    line = {"color": colour, "dash": dash, "width": 2.25, "shape": "hv"}
    head = curve.time <= curve.thin_from
    tail = np.flatnonzero(~head)
    join = curve.survival[head][-1]  # where the trusted part ends and the tail begins
    split_time = np.r_[curve.time[head], curve.thin_from]
    split_survival = np.r_[curve.survival[head], join]
    traces: list[dict[str, Any]] = [
        {
            **common,
            "meta": {"part": "band"},
            "mode": "lines",
            "showlegend": False,
            "line": {"width": 0},
            "fill": "toself",
            "fillcolor": f"rgba({red},{green},{blue},0.12)",
            **_polygon(curve),
        },
        {
            **common,
            "meta": {"part": "curve"},
            "mode": "lines",
            "line": line,
            "x": split_time.tolist(),
            "y": _percent(split_survival),
        },
    ]
    if len(tail):
        time = np.r_[curve.thin_from, curve.time[tail]]
        survival = np.r_[join, curve.survival[tail]]
        traces.append(
            {
                **common,
                "meta": {"part": "tail"},
                "mode": "lines",
                "showlegend": False,
                "line": line,
                "opacity": 0.4,
                "x": time.tolist(),
                "y": _percent(survival),
            }
        )
    traces.append(
        {
            **common,
            "meta": {"part": "censored"},
            "mode": "markers",
            "showlegend": False,
            "x": curve.censor_time.tolist(),
            "y": _percent(curve.censor_survival),
            "marker": {
                "symbol": "line-ns-open",
                "size": 8,
                "color": colour,
                "line": {"width": 1.4},
            },
        }
    )
    return traces


def _polygon(curve: Curve) -> dict[str, list[float]]:
    """The band as one closed outline: along the upper steps, back along the lower ones."""
    x = np.repeat(curve.time, 2)[1:]
    upper, lower = np.repeat(curve.upper, 2)[:-1], np.repeat(curve.lower, 2)[:-1]
    return {
        "x": np.r_[x, x[::-1]].tolist(),
        "y": _percent(np.r_[upper, lower[::-1]]),
    }


def _percent(share: Floats) -> list[float]:
    return [float(value) for value in np.round(100.0 * share, 3)]


def svg(analysis: Analysis) -> str:
    """The figure with its table and labels as SVG; text stays text, so that it can be edited."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    curves, table = analysis.result.curves, analysis.result.table
    line, row = 0.19, 0.19  # inches
    table_height = len(curves) * 4 * row + 0.1
    foot = 0.7
    width, plot_height, top = 8.0, 4.0, 0.95
    gap = 0.65  # between axis and table: tick labels and the axis title
    height = top + plot_height + gap + table_height + foot
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    left, right = 0.235, 0.965
    axes = figure.add_axes(
        (left, (foot + table_height + gap) / height, right - left, plot_height / height)
    )
    end = axis_end(analysis)
    for index, curve in enumerate(curves):
        _draw(axes, index, curve)
    axes.set_xlim(0, end)
    axes.set_ylim(0, 101)
    axes.set_xticks(table.ticks)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.set_ylabel("Without event (%)")
    axes.set_xlabel(time_axis(analysis.question))
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axes.legend(frameon=False, loc="best", fontsize=9, handlelength=3.2)
    figure.text(0.03, 1 - 0.30 / height, title(analysis.question), fontsize=13, weight="bold")
    figure.text(0.03, 1 - 0.58 / height, _headline(analysis), fontsize=9)

    def column(month: float) -> float:
        return left + (right - left) * month / end

    y = foot + table_height
    for index, label in enumerate(table.labels):
        colour, _ = style(index)
        figure.text(0.03, y / height, label, fontsize=9, weight="bold", color=colour, va="top")
        counts = (
            ("At risk", table.at_risk),
            ("Censored", table.censored),
            ("Events", table.events),
        )
        for name, values in counts:
            y -= row
            figure.text(0.045, y / height, name, fontsize=8.5, va="top")
            for tick, month in enumerate(table.ticks):
                figure.text(
                    column(month),
                    y / height,
                    str(values[index, tick]),
                    fontsize=8.5,
                    ha="center",
                    va="top",
                )
        y -= row
    for number, said in enumerate((" · ".join(labels(analysis.question)), _source(analysis))):
        figure.text(
            0.03,
            (foot - 0.3 - number * line) / height,
            said,
            fontsize=8,
            weight="bold" if number == 0 else "normal",
            color="#333333",
            va="top",
        )
    return _rendered(figure)


def _draw(axes: Any, index: int, curve: Curve) -> None:
    colour, _ = style(index)
    dashes = _MATPLOTLIB_DASHES[index % len(_MATPLOTLIB_DASHES)]
    axes.fill_between(
        curve.time,
        100 * curve.lower,
        100 * curve.upper,
        step="post",
        color=colour,
        alpha=0.12,
        linewidth=0,
    )
    kept = curve.time <= curve.thin_from
    share = 100 * curve.survival
    axes.step(
        np.r_[curve.time[kept], curve.thin_from],
        np.r_[share[kept], share[kept][-1]],
        where="post",
        color=colour,
        linestyle=dashes,
        linewidth=1.8,
        label=f"{curve.label} ({curve.events}/{curve.n})",
    )
    axes.step(
        np.r_[curve.thin_from, curve.time[~kept]],
        np.r_[share[kept][-1], share[~kept]],
        where="post",
        color=colour,
        linestyle=dashes,
        linewidth=1.8,
        alpha=0.4,
    )
    axes.plot(
        curve.censor_time,
        100 * curve.censor_survival,
        "|",
        color=colour,
        markersize=6,
        markeredgewidth=1.1,
    )


def _headline(analysis: Analysis) -> str:
    result = analysis.result
    said = [f"{result.n} patients, {result.events} events"]
    if result.log_rank is not None:
        test = result.log_rank
        said.append(f"{test.test} p {_with_equals(format_p(test.p))}")
    if len(result.hazard_ratios) == 1:
        ratio = result.hazard_ratios[0]
        said.append(f"HR {format_ratio(ratio)}, {ratio.label} vs {ratio.reference}")
    return " · ".join(said)


def _with_equals(shown: str) -> str:
    return shown if shown.startswith("<") else f"= {shown}"


def _source(analysis: Analysis) -> str:
    left_out = analysis.n_cohort - analysis.result.n
    tail = f"; {left_out} of {analysis.n_cohort} patients left out" if left_out else ""
    return (
        f"{analysis.question.study}. Kaplan–Meier, 95 % log-log band; | censored; "
        f"legend: events/patients{tail}."
    )


def _rendered(figure: Any) -> str:
    import matplotlib

    out = io.StringIO()
    # No date and a fixed salt: the same analysis gives the same bytes.
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "past",
            "font.family": "sans-serif",
            "font.sans-serif": ["Arial", "Liberation Sans", "DejaVu Sans"],
        }
    ):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": "PAST workbench"})
    return out.getvalue()
