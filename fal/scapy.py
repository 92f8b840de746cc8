"""A listening socket for scapy: what fal-poller serves, alone or sharing in a group.

    from scapy.all import sniff
    from fal.scapy import FalL2ListenSocket

    sniff(opened_socket=FalL2ListenSocket("fal:eth0", group=42, fanout="hash"), prn=print)

Importing this makes fal-pollers interfaces of scapy's, too: `sniff(iface="fal:eth0")` uses it, and
with `conf.L2listen = FalL2ListenSocket` all others do.

It stands on `fal.open`, not on `fal.pcap`: with a batch at hand, scapy's loop need not ask the
kernel for each packet, and libpcap is wanted for filters alone.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from contextlib import suppress

from scapy.config import conf
from scapy.data import ETH_P_ALL, MTU
from scapy.interfaces import InterfaceProvider, NetworkInterface
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from scapy.supersocket import SuperSocket

import fal
from fal import runtime, status
from fal.errors import FalError

_BATCH = 64  # packets that are held in the ring at a time


class FalL2ListenSocket(SuperSocket):
    """A socket of `fal.open`'s, for scapy's sniff, AsyncSniffer, and all that calls recv.

    iface: "fal:eth0", "fal:A^B", "tpacket:eth0" or "eth0".  type: an Ethernet protocol, and no
    other.  filter: a pcap expression.  group, fanout: to share the packets with other sockets.
    promisc is left to the device; monitor mode is refused.  FalError as `fal.open`.
    """

    desc = "read packets at layer 2 from fal-poller, or by the kernel's fan-out"

    def __init__(
        self,
        iface: str | NetworkInterface | None = None,
        type: int = ETH_P_ALL,
        promisc: bool | None = None,
        filter: str | None = None,
        nofilter: int = 0,
        monitor: bool | None = None,
        *,
        group: int | None = None,
        fanout: str | None = None,
    ) -> None:
        self.closed = True  # which __del__ looks at, should this fail
        self._pending: deque[tuple[int, memoryview]] = deque()
        self.iface = str(iface or conf.iface)
        if monitor:
            raise FalError(errno.EOPNOTSUPP, f"{self.iface}: no monitor mode")
        wanted = [f"({filter})"] if filter else []
        if type != ETH_P_ALL:
            wanted.append(f"ether proto {type}")
        if conf.except_filter and not nofilter:
            wanted.append(f"not ({conf.except_filter})")
        self._socket = fal.open(self.iface, group=group, fanout=fanout, filter=" and ".join(wanted))
        self.closed = False

    def recv_raw(self, x: int = MTU) -> tuple[type[Packet], bytes, float]:
        """Wait for a packet: its class, its first x bytes, seconds since 1970 UTC.

        EOFError at the end of a finite source or a clean shutdown, fal.PollerGone after a crash.
        """
        while not self._pending:
            self._receive(None)
        ts_ns, data = self._pending.popleft()
        return Ether, bytes(data[:x]), ts_ns * 1e-9

    def _receive(self, timeout: float | None) -> None:
        """Hold the next batch.  The one before goes back to fal-poller, all of it was read."""
        batch = self._socket.recv_batch(_BATCH, timeout)
        self._pending.extend(zip(batch.heads["ts_ns"].tolist(), batch, strict=True))

    def nonblock_recv(self) -> Packet | None:
        """Return the next packet; None if there is none yet."""
        return self.recv() if self._ready() else None

    def _ready(self) -> bool:
        """Whether recv has something to give, or to say, at once."""
        try:
            if not self._pending:
                self._receive(0)
        except (EOFError, FalError):
            return True  # and recv raises it again
        return bool(self._pending)

    @staticmethod
    def select(
        sockets: list[SuperSocket], remain: float | None = conf.recv_poll_rate
    ) -> list[SuperSocket]:
        """Wait until some can be read from; packets at hand are not waited for.

        After a late wake the descriptor may be readable once too often: then it is none.
        """
        pending = [s for s in sockets if isinstance(s, FalL2ListenSocket) and s._pending]
        if pending:
            return [*pending]
        found = SuperSocket.select(sockets, remain)
        return [s for s in found if not isinstance(s, FalL2ListenSocket) or s._ready()]

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, x: Packet) -> int:
        """Send a frame; returns its length.  FalError as `fal.Socket.inject`."""
        x.sent_time = time.time()
        return self._socket.inject(bytes(x))

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._pending.clear()
            self._socket.close()


class _Pollers(InterfaceProvider):
    """The fal-pollers of this user, running or crashed, which opening them says."""

    name = "fal"

    def load(self) -> dict[str, NetworkInterface]:
        names: list[str] = []
        with suppress(FalError):
            names = [f"fal:{name}" for name in status.names(runtime.own_directory())]
        words = ("name", "description", "network_name")
        return {name: NetworkInterface(self, dict.fromkeys(words, name)) for name in names}

    def _l2listen(self, dev: NetworkInterface) -> type[SuperSocket]:
        return FalL2ListenSocket

    _l2socket = _l2listen


conf.ifaces.register_provider(_Pollers)
