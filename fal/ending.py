"""How a command that runs on and on is ended: Ctrl-C or SIGTERM, taken where it is looked for.

While `held()`, neither strikes: what was counted is whole when the totals are printed.  A mask
would not do, since a library's thread without it would get the signal.
"""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Wanted = Callable[[float], bool]


@contextmanager
def heard(numbers: Iterable[signal.Signals]) -> Iterator[socket.socket]:
    """Give a socket that has a byte for each of these signals that comes: its number.

    They do nothing else.  Processes that are forked meanwhile let them pass.
    """
    told, tell = socket.socketpair()
    with told, tell:
        tell.setblocking(False)
        fd = signal.set_wakeup_fd(tell.fileno())
        handlers = {number: signal.signal(number, lambda *_: None) for number in numbers}
        try:
            yield told
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(fd)


@contextmanager
def held() -> Iterator[Wanted]:
    """Give a function that waits so many seconds for a wish to end, and tells whether it came."""
    with heard(SIGNALS) as told:
        yield lambda seconds: bool(select.select([told], [], [], max(seconds, 0.0))[0])
