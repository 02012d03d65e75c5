"""The networks. `from ml.models import PAST` loads torch only when PAST is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml.models.past import PAST

__all__ = ["PAST"]


def __getattr__(name: str) -> Any:
    if name == "PAST":
        from ml.models.past import PAST

        return PAST
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
