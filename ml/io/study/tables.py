"""CSV tables read row by row, so that every complaint names its file and row."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml.errors import InputError

_LONGEST_TEXT = 200


@dataclass(frozen=True)
class Row:
    """One row of a table; `number` is its line in the file, the header being line 1."""

    table: str
    number: int
    values: dict[str, str]

    @property
    def where(self) -> str:
        return f"{self.table} row {self.number}"

    def error(self, code: str, what: str, remedy: str) -> InputError:
        return InputError(code, self.where, what, remedy)

    def text(self, column: str, *, longest: int = _LONGEST_TEXT) -> str:
        """The text of a column, "" where empty or where there is no such column."""
        value = self.values.get(column, "")
        if len(value) > longest:
            raise self.error(
                "table.too_long",
                f"{column} has {len(value)} characters.",
                f"Shorten it to {longest}.",
            )
        return value

    def required(self, column: str, *, longest: int = 80) -> str:
        value = self.text(column, longest=longest)
        if not value:
            raise self.error("table.empty", f"{column} is empty.", f"Fill in {column}.")
        return value

    def number_or_none(self, column: str) -> float | None:
        """The number of a column, None where empty."""
        text = self.values.get(column, "")
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(
                "table.not_a_number",
                f"{column} is {text!r}, which is not a number.",
                "Write a number with a decimal point, or leave the field empty if it is missing.",
            )
        return value


def read_rows(path: Path, *, required: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    """Rows of a CSV file (UTF-8, comma) whose columns are among those named.

    Raises:
        InputError: the file, its header or a row is not as it should be.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path.name, header, required, optional)
            for fields in reader:
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) != len(header):
                    raise InputError(
                        "table.row",
                        f"{path.name} row {reader.line_num}",
                        f"the row has {len(fields)} fields, the header {len(header)}.",
                        "Quote fields that hold a comma, and keep one field per column.",
                    )
                values = (field.strip() for field in fields)
                yield Row(path.name, reader.line_num, dict(zip(header, values, strict=True)))
    except FileNotFoundError as error:
        raise InputError(
            "table.missing",
            path.name,
            "the study folder has no such file.",
            f"Write it with the columns {', '.join(required)}.",
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            "table.unreadable",
            path.name,
            f"this is not a CSV file in UTF-8 ({error}).",
            "Save it as CSV, comma-separated, UTF-8.",
        ) from error


def _check_header(
    name: str, header: list[str], required: Sequence[str], optional: Sequence[str]
) -> None:
    where = f"{name} row 1"
    known = [*required, *optional]
    for column in required:
        if column not in header:
            raise InputError(
                "table.column_missing", where, f"column {column!r} is missing.", "Add the column."
            )
    for column in header:
        if column not in known:
            raise InputError(
                "table.column_unknown",
                where,
                f"column {column!r} is not known.",
                f"Known columns: {', '.join(known)}. Clinical columns are declared in study.json.",
            )
        if header.count(column) > 1:
            raise InputError(
                "table.column_twice",
                where,
                f"column {column!r} is there twice.",
                "Keep one of the two.",
            )
