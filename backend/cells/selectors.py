"""Reads of cell tables and layers, and gene search over them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.http import Http404

from backend.accounts.models import User
from backend.accounts.permissions import Action
from backend.cells.expression import open_layer, open_table
from backend.cells.models import CellTable, Layer
from backend.studies.models import Study
from backend.studies.selectors import require, role_in


def table_for(user: User, table_id: int) -> CellTable:
    """The cell table with its artifact. Http404 when invisible, PermissionDenied by role."""
    table = (
        CellTable.objects.visible_to(user)
        .annotate(role=role_in(user, "slide__study"))
        .select_related("artifact")
        .filter(pk=table_id)
        .first()
    )
    if table is None:
        raise Http404("No such cell table.")
    require(table.role, Action.CELLS_VIEW)
    return table


EXPRESSION = (Layer.Kind.EXPRESSION,)
ANNOTATIONS = (Layer.Kind.CELL_TYPE, Layer.Kind.TRUST)


def layer_for(
    user: User,
    layer_id: int,
    *,
    table: CellTable | None = None,
    kinds: tuple[Layer.Kind, ...] = EXPRESSION,
) -> Layer:
    """A layer of these kinds with table and artifacts; of `table` only, when that is given."""
    layers = (
        Layer.objects.visible_to(user)
        .annotate(role=role_in(user, "table__slide__study"))
        .select_related("artifact", "table__artifact")
        .filter(pk=layer_id, kind__in=kinds)
    )
    layer = (layers.filter(table=table) if table else layers).first()
    if layer is None:
        raise Http404("No such layer.")
    require(layer.role, Action.CELLS_VIEW)
    return layer


def table_genes(table: CellTable, search: str = "") -> list[dict[str, Any]]:
    """Genes of a table whose symbol contains `search`: measured or not, and ids of its layers."""
    measured = set(open_table(table.artifact).symbols) if table.is_measured else set()
    by_layer = {
        layer.pk: frozenset(open_layer(layer.artifact).symbols)
        for layer in table.layers.filter(kind=Layer.Kind.EXPRESSION).select_related("artifact")
    }
    return [
        {
            "symbol": symbol,
            "measured": symbol in measured,
            "layers": [pk for pk, symbols in by_layer.items() if symbol in symbols],
        }
        for symbol in matching(measured.union(*by_layer.values()), search)
    ]


def study_genes(study: Study, search: str = "") -> list[dict[str, Any]]:
    """Genes of a study whose symbol contains `search`: measured or predicted on some slide.

    One store is opened per distinct panel, not per slide.
    """
    tables = (
        CellTable.objects.filter(slide__study=study, n_genes__gt=0)
        .order_by("panel_hash", "pk")
        .distinct("panel_hash")
        .select_related("artifact")
    )
    layers = (
        Layer.objects.filter(table__slide__study=study, kind=Layer.Kind.EXPRESSION)
        .order_by("panel_hash", "pk")
        .distinct("panel_hash")
        .select_related("artifact")
    )
    measured = {symbol for table in tables for symbol in open_table(table.artifact).symbols}
    predicted = {symbol for layer in layers for symbol in open_layer(layer.artifact).symbols}
    return [
        {"symbol": symbol, "measured": symbol in measured, "predicted": symbol in predicted}
        for symbol in matching(measured | predicted, search)
    ]


def matching(symbols: Iterable[str], search: str) -> list[str]:
    """Symbols that contain `search` whatever its case: equal first, then beginning with it."""
    wanted = search.strip().upper()

    def rank(symbol: str) -> tuple[bool, bool, str]:
        upper = symbol.upper()
        return (upper != wanted, not upper.startswith(wanted), symbol)

    return sorted((symbol for symbol in symbols if wanted in symbol.upper()), key=rank)
