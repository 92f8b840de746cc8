"""Programs that know only libpcap: how each is told to capture with a filter, and what it saw.

The traffic: numbered UDP packets of 64 flows, half of them to the port that the filters name; as
many SYNs for p0f, and ARP for arpwatch.  Ticks, TCP to port 9, come after it where they are needed.
"""

from __future__ import annotations

import re
import shlex
import signal
import struct
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from subprocess import TimeoutExpired

from captures import read_pcap
from support import Namespace, run

from fal.frames import TCP, ethernet, ip, tcp, udp

FLOWS, WANTED = 64, 5000


def syn(n: int, port: int) -> bytes:
    """Make what opens a connection, as Linux does: p0f knows it by its options."""
    options = bytes.fromhex("020405b40402080a000000010000000001030307")
    header = struct.pack(">HHIIBBHHH", 3000 + n, port, 1, 0, 0xA0, 2, 29200, 0, 0)
    return ethernet(ip(f"10.4.0.{n}", "10.9.0.1", TCP, header + options))


def arp(n: int) -> bytes:
    """Make a request of a host of its own, numbered in the last byte of its addresses."""
    mac, own, sought = bytes((2, 0, 0, 1, 0, n)), bytes((10, 3, 0, n)), bytes((10, 3, 0, 254))
    body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + mac + own + bytes(6) + sought
    return (b"\xff" * 6 + mac + b"\x08\x06" + body).ljust(60, b"\0")


def numbered(n: int) -> bytes:
    """Make packet n: the flow of n modulo FLOWS, every other round of them wanted."""
    source = (f"10.0.0.{1 + n % FLOWS}", 2000 + n % FLOWS)
    port = WANTED + n // FLOWS % 2
    return udp(source, ("10.9.0.1", port), b"packet %06d end" % n)


NUMBERED = [numbered(n) for n in range(4 * FLOWS)]
SYNS = [syn(n, 80 + n % 2) for n in range(1, 65)]
ARPS = [arp(n) for n in range(1, 65)]
TICKS = [tcp((f"10.5.0.{n}", 4000 + n), ("10.9.0.1", 9), b"tick") for n in range(1, 65)]
TRAFFIC = [*NUMBERED, *SYNS, *ARPS]

# What a program that saw each wanted packet once has seen: of a key, so many.
Seen = Counter[int]
NUMBERS = Counter(n for n in range(4 * FLOWS) if n // FLOWS % 2 == 0)
PORTS = Counter({2000 + flow: 2 for flow in range(FLOWS)})
TOTAL = Counter({0: 2 * FLOWS})
OPENED = Counter(n for n in range(1, 65) if n % 2 == 0)
HOSTS = Counter(n for n in range(1, 65) if n & 2 == 0)


def of_file(here: Path, _: Namespace) -> Seen:
    """Look into a capture file; what is still being written ends anywhere."""
    path = here / "out.pcap"
    return seen_in(b"".join(data for _, data, _ in read_pcap(path)[1]) if path.exists() else b"")


def seen_in(data: bytes) -> Seen:
    return Counter(map(int, re.findall(rb"packet (\d{6}) end", data)))


def of_text(here: Path, _: Namespace) -> Seen:
    return seen_in((here / "stdout").read_bytes())


def of_hex(here: Path, _: Namespace) -> Seen:
    lines = (here / "stdout").read_text().split("\n")[:-1]
    return seen_in(b" ".join(map(bytes.fromhex, lines)))


def of_intervals(here: Path, _: Namespace) -> Seen:
    """Sum up tcpstat's lines: one an interval, written when the next has begun."""
    return Counter({0: sum(map(int, (here / "stdout").read_text().split()))})


def of_log(here: Path, _: Namespace) -> Seen:
    path = here / "log"
    text = path.read_text() if path.exists() else ""
    return Counter(map(int, re.findall(r"mod=syn\|cli=10\.4\.0\.(\d+)/", text)))


def of_reports(here: Path, _: Namespace) -> Seen:
    text = (here / "stdout").read_text()
    return Counter(map(int, re.findall(r"new station \(10\.3\.0\.(\d+)\)", text)))


def of_flows(here: Path, _: Namespace) -> Seen:
    """Ask softflowd; it writes the lower address of a flow first."""
    try:
        text = run("softflowctl", "-c", here / "ctl", "dump-flows", timeout=2).stdout
    except TimeoutExpired:  # it sits in its pcap_dispatch
        return Seen()
    flow = r"\[10\.0\.0\.\d+\]:(\d+) <> \[10\.9\.0\.1\]:5000 .*?packets>:(\d+)"
    return Counter({int(port): int(packets) for port, packets in re.findall(flow, text)})


def of_records(here: Path, _: Namespace) -> Seen:
    """Read argus's file by its own client; a flow has a record for each second that it lives."""
    words = ("-n", "-r", here / "out.argus", "-s", "sport", "spkts", "-", "dst", "port", "5000")
    seen: Seen = Counter()
    for line in run("ra", *words).stdout.splitlines():
        port, packets = line.split()
        if port.isdigit():
            seen[int(port)] += int(packets)
    return seen


def of_page(here: Path, inside: Namespace) -> Seen:
    """Ask darkstat's web server."""
    try:
        with inside.entered():
            server = HTTPConnection("127.0.0.1", port_of(here), timeout=5)
            server.request("GET", "/")
        page = server.getresponse().read().decode()
        server.close()
    except OSError:
        return Seen()
    found = re.search(r'id="tp">([\d,]+)<', page)
    return Counter({0: int(found[1].replace(",", ""))} if found else {})


def port_of(here: Path) -> int:
    """Return a port for a server of this copy."""
    return 6000 + int(here.name)


PCAPY = """
import sys, pcapy
handle = pcapy.open_live(sys.argv[1], 65535, 1, 100)
handle.setfilter(sys.argv[2])
handle.loop(-1, lambda header, data: print(data.hex(), flush=True))
"""
PYPCAP = """
import sys, pcap
handle = pcap.pcap(sys.argv[1], timeout_ms=100)
handle.setfilter(sys.argv[2])
for ts, data in handle:
    print(data.hex(), flush=True)
"""
SCAPY = """
import sys
from scapy.config import conf
conf.use_pcap = True
from scapy.sendrecv import sniff
from scapy.layers.l2 import Ether
show = lambda packet: print(bytes(packet).hex(), flush=True)
sniff(iface=sys.argv[1], filter=sys.argv[2], prn=show, store=False)
"""


@dataclass(frozen=True)
class Program:
    """`line`: its command; {device}, {here} (a directory of its own) and {port} are put in."""

    line: str | tuple[str, ...]
    seen: Callable[[Path, Namespace], Seen]
    wanted: Seen = field(default_factory=lambda: NUMBERS)
    end: int = signal.SIGINT
    status: int = 0  # its exit status at that signal
    plain: bool = False  # it asks the kernel about the device, or takes ':' for something else
    kernel_mode: str = "hash"
    ready: str = ""  # what it says on stderr once it captures, if it opens before, too
    ticks: bool = False  # it looks at what it has, and at a signal, only when more comes
    keeps: bool = True  # what it saw can be looked at after its end

    @property
    def words(self) -> Sequence[str]:
        return shlex.split(self.line) if isinstance(self.line, str) else self.line


def python(script: str) -> tuple[str, ...]:
    return (sys.executable, "-c", script, "{device}", "udp dst port 5000")


PROGRAMS = {
    "tcpdump": Program(
        "tcpdump -Z root -i {device} -U -w {here}/out.pcap udp dst port 5000", of_file
    ),
    "tcpdump -Z": Program(
        "tcpdump -Z tcpdump -i {device} -U -w {here}/out.pcap udp dst port 5000", of_file
    ),
    "dumpcap": Program("dumpcap -P -i {device} -f 'udp dst port 5000' -w {here}/out.pcap", of_file),
    "tshark": Program(
        "tshark -l -n -i {device} -f 'udp dst port 5000' -T fields -e udp.payload",
        of_hex,
        ready="File: ",
    ),
    "ngrep": Program("ngrep -l -q -d {device} packet udp dst port 5000", of_text),
    "tcpstat": Program(
        r"tcpstat -F -i {device} -f 'udp dst port 5000 or tcp dst port 9' -o '%U\n' 0.1",
        of_intervals,
        TOTAL,
        ticks=True,
    ),
    "p0f": Program("p0f -i {device} -o {here}/log 'tcp dst port 80'", of_log, OPENED),
    "p0f -d": Program("p0f -d -i {device} -o {here}/log 'tcp dst port 80'", of_log, OPENED),
    "softflowd": Program(
        "softflowd -d -i {device} -p {here}/pid -c {here}/ctl udp dst port 5000 or tcp dst port 9",
        of_flows,
        PORTS,
        status=-signal.SIGINT,
        plain=True,
        ticks=True,
        keeps=False,
    ),
    "argus": Program(
        "argus -X -S 1 -u nobody -i {device} -w {here}/out.argus - udp dst port 5000",
        of_records,
        PORTS,
        plain=True,
    ),
    "arpwatch": Program(
        "arpwatch -d -N -u arpwatch -F 'ether[11] & 2 == 0' -i {device} -f {here}/arp.dat",
        of_reports,
        HOSTS,
        kernel_mode="lb",  # the kernel's hash is the same for all ARP
    ),
    "darkstat": Program(
        "darkstat -i {device} --no-daemon --no-dns -p {port} -b 127.0.0.1 -f 'udp dst port 5000'",
        of_page,
        TOTAL,
        keeps=False,
    ),
    "pcapy-ng": Program(python(PCAPY), of_hex, end=signal.SIGTERM, status=-signal.SIGTERM),
    "pypcap": Program(python(PYPCAP), of_hex, end=signal.SIGTERM, status=-signal.SIGTERM),
    "scapy": Program(python(SCAPY), of_hex),
}
