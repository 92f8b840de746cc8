"""A fal-poller on a veth pair, in every way that AF_XDP has there, and by packet socket."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support import Poller, Veth

MODES = ("generic", "native")
WAYS = [(mode, queues, pollers) for mode in MODES for queues, pollers in ((1, 1), (4, 1), (4, 2))]
WAYS += [("tpacket", 1, 1), ("tpacket", 2, 2)]  # a queue is a socket


@pytest.fixture(params=WAYS, ids=["-".join(map(str, way)) for way in WAYS])
def served(
    request: pytest.FixtureRequest,
    make_veth: Callable[..., Veth],
    start_poller: Callable[..., Poller],
) -> tuple[Veth, Poller]:
    mode, queues, pollers = request.param
    veth = make_veth(queues=queues)
    cpus = ("--cpus", ",".join(map(str, range(pollers))))
    words = ("--backend", "tpacket") if mode == "tpacket" else ("--mode", mode)
    poller = start_poller(veth.device, *words, *cpus, namespace=veth.inside)
    runs = "copy" if mode == "tpacket" else mode
    assert (poller.ready["mode"], poller.ready["queues"]) == (runs, str(queues))
    return veth, poller
