"""A fal-poller on a veth pair, in every way that AF_XDP has there."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from support import Poller, Veth

MODES = ("generic", "native")
WAYS = list(product(MODES, (1, 4)))


@pytest.fixture(params=WAYS, ids=[f"{mode}-{queues}" for mode, queues in WAYS])
def served(
    request: pytest.FixtureRequest,
    make_veth: Callable[..., Veth],
    start_poller: Callable[..., Poller],
) -> tuple[Veth, Poller]:
    mode, queues = request.param
    veth = make_veth(queues=queues)
    poller = start_poller(veth.device, "--mode", mode, namespace=veth.inside)
    assert (poller.ready["mode"], poller.ready["queues"]) == (mode, str(queues))
    return veth, poller
