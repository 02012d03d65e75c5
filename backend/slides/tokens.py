"""Signed slide tokens: the right to read one slide's tiles for at most an hour.

A token is made where a slide was shown to a user who may see it, and is the tile view's only
authorisation, so that a tile needs no database. Expiry is rounded to half hours: reloading a page
gives the same tile addresses, which the browser has cached.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from django.core import signing

MAX_AGE_S = 3600
_STEP_S = 1800
_SIGNER = "slides.tiles"


@dataclass(frozen=True)
class SlideToken:
    """An artifact in the object store, the user it was given to, and when it ends (Unix time)."""

    sha256: str
    uri: str
    user_id: int
    expires: int


class TokenExpired(signing.BadSignature):
    """The signature is ours, but its time is over."""


def make_token(*, sha256: str, uri: str, user_id: int, now: float | None = None) -> str:
    """A URL-safe token, valid for between half an hour and an hour."""
    now = time.time() if now is None else now
    expires = (int(now) // _STEP_S + 2) * _STEP_S
    return signing.Signer(salt=_SIGNER).sign_object([sha256, uri, user_id, expires])


def read_token(token: str, now: float | None = None) -> SlideToken:
    """Raises TokenExpired, or BadSignature when the token was not made by `make_token`."""
    slide = SlideToken(*signing.Signer(salt=_SIGNER).unsign_object(token))
    if slide.expires < (time.time() if now is None else now):
        raise TokenExpired("The slide token has expired.")
    return slide
