"""The tree of errors.  All are OSErrors with the errno that C gave, and one clear line."""

from __future__ import annotations

import errno
import os
from typing import Any, NoReturn

from fal.bindings import ffi


class FalError(OSError):
    """Whatever FAL refuses or cannot do; `errno` says what kind, `strerror` why."""

    def __str__(self) -> str:
        return str(self.strerror)


class PollerGone(FalError):  # noqa: N818 (named for what happened)
    """fal-poller died (ECONNRESET), or its device did (ENODEV)."""


GONE = (errno.ECONNRESET, errno.ENODEV)


def raise_error(err: Any) -> NoReturn:
    """Raise what a `struct fal_error` holds."""
    code, text = err.code, ffi.string(err.text).decode(errors="replace")
    raise (PollerGone if code in GONE else FalError)(code, text)


def c_string(text: str) -> bytes:
    """Return a user's word as C takes it; EINVAL where that cannot be."""
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:
        raw = b"\0"
    if b"\0" in raw:
        raise FalError(errno.EINVAL, f"{text!r} is no word: it holds a NUL, or half a character")
    return raw


def checked(result: Any, err: Any) -> Any:
    """Return the result of a call that took `err`, unless it failed (-1 or NULL)."""
    if result == ffi.NULL if isinstance(result, ffi.CData) else result < 0:
        raise_error(err)
    return result
