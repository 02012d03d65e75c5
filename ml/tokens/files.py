"""Vocabulary files: a folder with ``genes.csv`` and ``vocabulary.json``.

``genes.csv`` has a line per gene, in the order of the token ids: ``gene_id`` (Ensembl's, or empty),
``symbol``, and one column per technology with the gene's non-zero mean, empty where the technology
has not measured it. ``vocabulary.json`` says what it was made of and the hash of ``genes.csv``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.errors import InputError
from ml.tokens.vocabulary import Vocabulary

GENES, HEAD = "genes.csv", "vocabulary.json"
REMEDY = "Build it again with `past vocab build`, or restore its folder."


@dataclass(frozen=True)
class VocabularyFile:
    """Ordered genes with their non-zero means in each technology.

    Attributes:
        gene_ids: Ensembl's, empty where unknown.
        symbols: unique; the gene id where a gene has no symbol.
        means: technology → (genes,) float64, NaN where the technology has not measured a gene.
        provenance: what it was made of.
    """

    gene_ids: tuple[str, ...]
    symbols: tuple[str, ...]
    means: dict[str, NDArray[np.float64]]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of genes."""
        return len(self.symbols)

    def technology(self, name: str) -> Vocabulary:
        """The vocabulary with the non-zero means of a technology.

        Raises:
            InputError ``vocabulary.technology`` when it has none of that name.
        """
        if name not in self.means:
            raise InputError(
                "vocabulary.technology",
                f"technology {name!r}",
                f"The vocabulary has no non-zero means of it; it has {', '.join(self.means)}.",
                "Choose one of these, or build a vocabulary from tables of this technology.",
            )
        return Vocabulary(self.symbols, self.means[name], self.gene_ids)

    @cached_property
    def symbol_of(self) -> dict[str, str]:
        """Ensembl id → symbol."""
        pairs = zip(self.gene_ids, self.symbols, strict=True)
        return {gene_id: symbol for gene_id, symbol in pairs if gene_id}

    @cached_property
    def id_of(self) -> dict[str, str]:
        """Symbol → Ensembl id."""
        return {symbol: gene_id for gene_id, symbol in self.symbol_of.items()}

    @cached_property
    def sha256(self) -> str:
        """Hash of genes and means; it tells vocabularies apart."""
        return hashlib.sha256(self._csv().encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write the folder; it appears when it is complete.

        Raises:
            InputError ``vocabulary.exists`` when there is one already.
        """
        if folder.exists():
            raise InputError(
                "vocabulary.exists",
                str(folder),
                "It exists already; models were perhaps trained with it.",
                "Name a folder that does not exist.",
            )
        text = self._csv()
        head = {
            "format": 1,
            "genes": len(self),
            "technologies": list(self.means),
            "sha256": self.sha256,
            "provenance": self.provenance,
        }
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            (part / GENES).write_text(text, encoding="utf-8", newline="")
            (part / HEAD).write_text(json.dumps(head, indent=1, ensure_ascii=False) + "\n", "utf-8")
            part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _csv(self) -> str:
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["gene_id", "symbol", *self.means])
        columns = [
            ["" if math.isnan(m) else repr(m) for m in v.tolist()] for v in self.means.values()
        ]
        rows.writerows(zip(self.gene_ids, self.symbols, *columns, strict=True))
        return text.getvalue()

    @classmethod
    def load(cls, folder: Path) -> VocabularyFile:
        """Read the folder.

        Raises:
            InputError: ``vocabulary.missing``, ``vocabulary.unreadable``, ``vocabulary.changed``
                when the genes are not those that were written, ``vocabulary.means``,
                ``vocabulary.duplicate_genes``.
        """
        for name in (GENES, HEAD):
            if not (folder / name).is_file():
                raise InputError("vocabulary.missing", str(folder), f"It holds no {name}.", REMEDY)
        text = (folder / GENES).read_bytes()
        head = _head(folder / HEAD)
        if hashlib.sha256(text).hexdigest() != head["sha256"]:
            raise InputError(
                "vocabulary.changed",
                str(folder / GENES),
                "It is not the file that was written: token ids may mean other genes.",
                REMEDY,
            )
        gene_ids, symbols, means = _genes(text.decode(), folder / GENES)
        return checked(gene_ids, symbols, means, head["provenance"], str(folder / GENES))


def _head(path: Path) -> dict[str, Any]:
    try:
        head: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if head["format"] != 1 or not isinstance(head["provenance"], dict):
            raise ValueError("its format is not 1")
        str(head["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            "vocabulary.unreadable", str(path), f"It is no vocabulary's head ({error!r}).", REMEDY
        ) from error
    return head


def _genes(text: str, path: Path) -> tuple[list[str], list[str], dict[str, NDArray[np.float64]]]:
    rows = csv.reader(io.StringIO(text))
    header = next(rows, [])
    lines = list(rows)
    if header[:2] != ["gene_id", "symbol"] or len(header) < 3:
        raise InputError(
            "vocabulary.unreadable",
            str(path),
            "Its first line is not gene_id,symbol and technologies.",
            REMEDY,
        )
    if any(len(line) != len(header) for line in lines):
        raise InputError(
            "vocabulary.unreadable", str(path), "Its lines are not equally long.", REMEDY
        )
    columns = list(zip(*lines, strict=True)) or [()] * len(header)
    means = {
        name: np.array([float(value or "nan") for value in column], np.float64)
        for name, column in zip(header[2:], columns[2:], strict=True)
    }
    return list(columns[0]), list(columns[1]), means


def checked(
    gene_ids: Sequence[str],
    symbols: Sequence[str],
    means: dict[str, NDArray[np.float64]],
    provenance: dict[str, Any],
    where: str,
) -> VocabularyFile:
    """A vocabulary file of these genes, all of them different and with possible means.

    Raises:
        InputError: ``vocabulary.duplicate_genes``, ``vocabulary.means``.
    """
    for names in ([gene_id for gene_id in gene_ids if gene_id], symbols):
        name, times = Counter(names).most_common(1)[0] if names else ("", 0)
        if times > 1:
            raise InputError(
                "vocabulary.duplicate_genes",
                where,
                f"{name} occurs {times} times.",
                "Merge or rename the duplicated genes.",
            )
    for name, values in means.items():
        bad = np.flatnonzero((values < 0) | np.isinf(values))
        if len(bad):
            raise InputError(
                "vocabulary.means",
                where,
                f"The {name} mean of {symbols[bad[0]]} is {values[bad[0]]}.",
                "A mean is a number from 0, or empty where a gene was not measured.",
            )
    return VocabularyFile(tuple(gene_ids), tuple(symbols), means, provenance)
