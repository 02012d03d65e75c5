"""The TOML file that a training is described in, checked key by key before anything is read."""

from __future__ import annotations

import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

from ml.errors import InputError
from ml.models.config import PRESETS, Architecture
from ml.training.settings import Settings

T = TypeVar("T")
_OPTIONAL = (typing.Union, types.UnionType)
# Keys that only one kind of data has; a table without any stands for all of its keys.
_OF_CORPUS: dict[str, tuple[str, ...]] = {
    "data": ("cache", "split_seed", "workers", "by_length", "validation_cells"),
    "model": ("weights", "frozen_blocks", "checkpoint_gradients"),
}
_OF_STUDY: dict[str, tuple[str, ...]] = {
    "data": ("slides", "test_site", "row_kind", "max_genes"),
    "training": ("joint",),
    "align": (),
}


@dataclass(frozen=True)
class DataSection:
    """What is trained on, and who is held out.

    Attributes:
        corpus: folder or fsspec URL that `past corpus build` wrote; this or `study`.
        study: folder that `past convert` wrote, for a study that fits into memory.
        cache: folder for local copies of a remote corpus.
        validation, test: held-out patients of a corpus (NAME, or STUDY/NAME), slides of a study.
        test_site: a site of the study whose patients are all held out, whatever the plan says.
        validation_share, test_share: of the patients, drawn, where none are named.
        split_seed: of that draw.
        slides: slides of the study that take part; all measured ones by default.
        row_kind: cell or spot, where a study has both.
        max_genes: genes with most counts that are kept of a study's larger panel.
        workers: processes that read a corpus ahead, for each GPU.
        by_length: whether cells of a batch have about the same number of genes, which saves padding
            on a GPU.
        validation_cells: cells that each validation of a corpus looks at, at most.
    """

    corpus: str | None = None
    study: Path | None = None
    cache: Path | None = None
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    test_site: str = ""
    validation_share: float = 0.0
    test_share: float = 0.0
    split_seed: int = 0
    slides: tuple[str, ...] | None = None
    row_kind: Literal["cell", "spot"] | None = None
    max_genes: int | None = None
    workers: int = 2
    by_length: bool = True
    validation_cells: int = 50_000


@dataclass(frozen=True)
class ModelSection:
    """The networks.

    Attributes:
        encoder: image encoder; crop encoders are trained end to end, dense ones stay as they are.
        weights: the encoder owner's file to start from, for encoders that have one.
        preset: sizes of the rest; [architecture] changes single ones.
        frozen_blocks: first blocks of the encoder that stay as they are.
        checkpoint_gradients: compute each block of the encoder twice: half the speed, a fraction of
            the memory.
    """

    encoder: str = "vit_tiny"
    weights: Path | None = None
    preset: str = "small"
    frozen_blocks: int = 0
    checkpoint_gradients: bool = False


@dataclass(frozen=True)
class RunConfig:
    """A training as its file describes it.

    Attributes:
        path: the file.
        out: folder for the model, its evaluation, checkpoints and records.
        architecture: sizes that differ from the preset's.
        settings: everything about training, losses and alignment included.
        given: the file's tables as they were written.
    """

    path: Path
    out: Path
    data: DataSection
    model: ModelSection
    architecture: dict[str, Any]
    settings: Settings
    given: dict[str, Any] = field(default_factory=dict)


def read_config(path: Path) -> RunConfig:
    """Read and check a config file.

    Raises:
        InputError: ``config.unreadable``, ``config.unknown_key``, ``config.type``,
            ``config.missing``, ``config.data`` or ``train.preset``.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            "config.unreadable",
            str(path),
            f"It is no TOML file that can be read ({error}).",
            "Write one: past train --example > FILE.",
        ) from error
    where, folder = str(path), path.absolute().parent
    nested = nested_tables(Settings)
    known = ["out", "data", "model", "architecture", "training", *nested]
    _only_known(tables, known, where, "")
    out = _value(tables.get("out", MISSING), Path, where, "out", folder)
    data = _filled(DataSection, tables.get("data", {}), where, "data", folder)
    model = _filled(ModelSection, tables.get("model", {}), where, "model", folder)
    if model.preset not in PRESETS:
        raise InputError(
            "train.preset", f"{where}, model.preset", f"There is no preset {model.preset!r}.",
            f"Choose one of: {', '.join(PRESETS)}.",
        )  # fmt: skip
    sizes = tables.get("architecture", {})
    _filled(Architecture, sizes, where, "architecture", folder)
    parts: dict[str, Any] = {
        name: _filled(of, tables.get(name, {}), where, name, folder) for name, of in nested.items()
    }
    settings = _filled(Settings, tables.get("training", {}), where, "training", folder, parts)
    _check_data(data, where)
    _check_applies(tables, where)
    if data.corpus is not None and "://" not in data.corpus:
        data = replace(data, corpus=str(folder / Path(data.corpus).expanduser()))
    return RunConfig(path, out, data, model, dict(sizes), settings, tables)


def _check_applies(tables: Mapping[str, Any], where: str) -> None:
    """Refuse keys that would have no effect on what is trained on."""
    on = "corpus" if "corpus" in tables["data"] else "study"
    foreign = _OF_STUDY if on == "corpus" else _OF_CORPUS
    for name, keys in foreign.items():
        for key in tables.get(name, {}):
            if key in keys or not keys:
                raise InputError(
                    "config.data",
                    f"{where}, {name}.{key}",
                    f"It has no effect on a training on a {on}.",
                    "Leave it out.",
                )


def _check_data(data: DataSection, where: str) -> None:
    """What [data] must say as a whole."""

    def wrong(key: str, what: str, remedy: str) -> InputError:
        return InputError("config.data", f"{where}, {key}", what, remedy)

    if (data.corpus is None) == (data.study is None):
        raise wrong(
            "data",
            "It names neither or both of corpus and study.",
            'Give one: corpus = "FOLDER" (past corpus build) or study = "FOLDER" (past convert).',
        )
    for part in ("validation", "test"):
        share = getattr(data, f"{part}_share")
        if not 0 <= share < 1:
            raise wrong(
                f"data.{part}_share", f"{share} is no share of patients.", "Give 0 to below 1."
            )
        if share and getattr(data, part):
            raise wrong(
                f"data.{part}_share",
                f"The {part} part is both named and drawn.",
                f"Give data.{part} or data.{part}_share.",
            )
        if share and data.study is not None:
            raise wrong(
                f"data.{part}_share",
                "Shares are drawn from the patients of a corpus.",
                f'Name the slides of the study: {part} = ["SLIDE", …].',
            )
    both = sorted(set(data.validation) & set(data.test))
    if both:
        raise wrong(
            "data", f"{', '.join(both)} is in validation and in test.", "Leave it in one of them."
        )
    if data.corpus is not None and "://" in data.corpus and data.cache is None:
        raise wrong(
            "data.cache", "A remote corpus is read through local copies.", 'Add cache = "FOLDER".'
        )


def nested_tables(of: type) -> dict[str, type]:
    """The fields of a dataclass that are dataclasses themselves: they are tables of their own."""
    hints = typing.get_type_hints(of)
    return {f.name: hints[f.name] for f in fields(of) if is_dataclass(hints[f.name])}


def _only_known(table: Mapping[str, Any], known: list[str], where: str, prefix: str) -> None:
    for key in table:
        if key in known:
            continue
        near = get_close_matches(key, known, 1)
        meant = f"Did you mean {prefix}{near[0]}? " if near else ""
        raise InputError(
            "config.unknown_key",
            f"{where}, {prefix}{key}",
            "There is no such key.",
            f"{meant}Known are: {', '.join(known)}.",
        )


def _filled(
    of: type[T],
    table: Any,
    where: str,
    name: str,
    folder: Path,
    parts: Mapping[str, Any] | None = None,
) -> T:
    """A dataclass from a table; `parts` are its fields that are tables of their own."""
    if not isinstance(table, dict):
        raise _mistyped(where, name, table, "a table")
    hints = typing.get_type_hints(of)
    parts = parts or {}
    known = [f.name for f in fields(of) if f.name not in parts]  # type: ignore[arg-type]
    _only_known(table, known, where, f"{name}.")
    values = {
        key: _value(value, hints[key], where, f"{name}.{key}", folder)
        for key, value in table.items()
    }
    return of(**values, **parts)


def _value(value: Any, hint: Any, where: str, name: str, folder: Path) -> Any:
    """A value of a TOML file as the field wants it."""
    if value is MISSING:
        raise InputError(
            "config.missing", f"{where}, {name}", "It is not given.", f"Add {name} = …."
        )
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in _OPTIONAL:
        (hint,) = [a for a in arguments if a is not type(None)]
        return _value(value, hint, where, name, folder)
    if origin is Literal:
        if value not in arguments:
            raise _mistyped(where, name, value, f"one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise _mistyped(where, name, value, "a list")
        items = [arguments[0]] * len(value) if arguments[1:] == (...,) else list(arguments)
        if len(items) != len(value):
            raise _mistyped(where, name, value, f"a list of {len(items)}")
        return tuple(
            _value(v, of, where, f"{name}[{i}]", folder)
            for i, (v, of) in enumerate(zip(value, items, strict=True))
        )
    if hint is Path and isinstance(value, str):
        return folder / Path(value).expanduser()
    # A whole number is a fine float; True is no number.
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false",
                 Path: "a path"}  # fmt: skip
        raise _mistyped(where, name, value, words.get(hint, str(hint)))
    return value


def _mistyped(where: str, name: str, value: Any, wanted: str) -> InputError:
    return InputError(
        "config.type", f"{where}, {name}", f"{value!r} is not {wanted}.", f"Give {wanted}."
    )
