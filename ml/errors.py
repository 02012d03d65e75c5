"""The one error that a user of `ml` is expected to act on."""

from __future__ import annotations


class InputError(Exception):
    """Something the user supplied cannot be used, and here is what to do about it.

    Args:
        code: short stable identifier, e.g. ``"slide.no_mpp"``.
        where: the file, row or field, e.g. ``"outcomes.csv row 7"``.
        what: what is wrong with it, in a sentence.
        remedy: what the user can do, in a sentence.
    """

    def __init__(self, code: str, where: str, what: str, remedy: str) -> None:
        super().__init__(f"{where}: {what} {remedy}")
        self.code = code
        self.where = where
        self.what = what
        self.remedy = remedy

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "where": self.where, "what": self.what, "remedy": self.remedy}
