"""`past train --example`: a config with every key, made of the settings' own defaults and docs."""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ml.models.config import Architecture
from ml.training.config_file import DataSection, ModelSection, nested_tables
from ml.training.settings import Settings

_HEAD = """\
# A training:  past train FILE
# on N GPUs:   torchrun --standalone --nproc-per-node N -m ml.training FILE
# Paths are relative to this file. Keys behind # have the value shown; take the # away to change it.

# Folder for model/, evaluation/, checkpoint/, metrics.jsonl and run.json. Starting again with the
# same file goes on from the last checkpoint.
out = "trained"
"""
_GIVEN = {"data.corpus": '"corpus"', "data.validation_share": "0.1", "data.test_share": "0.1"}
_WIDTH = 98


def example() -> str:
    """The text of the file."""
    tables: dict[str, type] = {
        "data": DataSection, "model": ModelSection, "architecture": Architecture,
        "training": Settings, **nested_tables(Settings),
    }  # fmt: skip
    preset = {"architecture": "These are the preset small's; others have others."}
    return _HEAD + "".join(_table(name, of, preset.get(name)) for name, of in tables.items())


def _table(name: str, of: type, note: str | None) -> str:
    about = (of.__doc__ or "").split("\n\n")[0].split("Attributes:")[0]
    lines = [f"\n[{name}]", *_comment(" ".join(about.split()))]
    if note:
        lines += _comment(note)
    said = attribute_docs(of)
    for field in fields(of):
        default: Any = field.default
        if is_dataclass(default) or not _has_default(default):
            continue
        key = f"{name}.{field.name}"
        text = said.pop(field.name, None)
        if text:
            lines += ["", *_comment(text)]
        if key in _GIVEN:
            lines.append(f"{field.name} = {_GIVEN[key]}")
        else:
            lines.append(f"# {field.name} = {_toml(default)}".rstrip())
    return "\n".join(lines) + "\n"


def _has_default(default: Any) -> bool:
    return default is None or isinstance(default, (bool, int, float, str, tuple, Path))


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH)] if text else []


def _toml(value: Any) -> str:
    """The value as TOML; nothing for one that is not given by default."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def attribute_docs(of: type) -> dict[str, str]:
    """What a class's docstring says of each attribute; one line for several is the first's."""
    _, _, section = (of.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(section).splitlines():
        begins = re.match(r"([a-z_]+(?:, [a-z_]+)*): (.*)", line)
        if begins:
            name = begins[1].split(", ")[0]
            found[name] = begins[2]
        elif name and line.strip():
            found[name] += " " + line.strip()
        else:
            name = ""
    return found
