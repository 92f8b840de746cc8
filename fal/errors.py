"""The tree of errors.  All are OSErrors with the errno that C gave, and one clear line."""

from __future__ import annotations

import errno
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


def checked(result: Any, err: Any) -> Any:
    """Return the result of a call that took `err`, unless it failed (-1 or NULL)."""
    if result == ffi.NULL if isinstance(result, ffi.CData) else result < 0:
        raise_error(err)
    return result
