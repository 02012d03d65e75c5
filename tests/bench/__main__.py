"""`python -m tests.bench [--only NAME]`: measures, prints a table, writes bench.json."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
import tempfile
from pathlib import Path

import tests.bench
from tests.bench.registry import BENCHMARKS, Row, targets

for module in pkgutil.iter_modules(tests.bench.__path__):
    if not module.name.startswith("_"):
        importlib.import_module(f"tests.bench.{module.name}")  # it registers what it measures

OUT = Path(__file__).resolve().parents[2] / "bench.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run the benchmarks whose name starts so")
    only = parser.parse_args().only
    chosen = {name: run for name, run in BENCHMARKS.items() if name.startswith(only)}
    if not chosen:
        print(f"No benchmark is called {only}…; there are {', '.join(BENCHMARKS)}.")
        return 2
    rows: list[Row] = []
    for name, run in chosen.items():
        print(f"{name} …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix=f"past-bench-{name}-") as folder:
            rows += run(Path(folder))
    write(rows)
    print_table(rows)
    return 0


def write(rows: list[Row]) -> None:
    """Replaces the rows measured now and keeps the others of earlier runs."""
    kept = json.loads(OUT.read_text()) if OUT.exists() else []
    measured = {row.name for row in rows}
    kept = [row for row in kept if row["name"] not in measured]
    OUT.write_text(json.dumps(kept + [row.as_dict() for row in rows], indent=1) + "\n")


def print_table(rows: list[Row]) -> None:
    aims = targets()
    print(f"{'name':<28}{'value':>12} {'unit':<9}{'baseline':>10}{'ratio':>8}{'target':>10}  met")
    for row in rows:
        aim = aims.get(row.name)
        met = aim.met_by(row.value) if aim else None
        print(
            f"{row.name:<28}{row.value:>12.3g} {row.unit:<9}{_number(row.baseline):>10}"
            f"{_number(row.ratio):>8}{_number(aim.target if aim else None):>10}  "
            f"{'–' if met is None else 'yes' if met else 'NO'}"
        )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
