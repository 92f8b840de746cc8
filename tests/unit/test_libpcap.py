"""libfal-pcap has libpcap's name and its whole interface."""

import subprocess
from pathlib import Path

from fal.libpcap import FAL_LIBRARY as OURS

THE_PAPERS = {"pcap_fanout", "pcap_set_channels", "pcap_get_channels", "pcap_irq_lookup"}
THE_PAPERS |= {f"pcap_irq_{way}affinity" for way in ("set", "get")}
THE_PAPERS |= {
    f"pcap_channel_{way}affinity{and_how}" for way in ("set", "get") for and_how in ("", "_mode")
}


def exports(library: Path) -> set[tuple[str, bool]]:
    """Return the names that a library exports, and which of them are data."""
    words = subprocess.run(
        ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return {(name, kind in "BDR") for _, kind, name in map(str.split, words)}


def systems() -> Path:
    listing = subprocess.run(
        ["dpkg", "-L", "libpcap0.8"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return next(Path(line) for line in listing if line.endswith("/libpcap.so.0.8"))


def test_everything_is_exported():
    """All that Debian's libpcap exports, what the paper adds, and nothing of our own."""
    assert exports(OURS) == exports(systems()) | {(name, False) for name in THE_PAPERS}


def test_name():
    words = subprocess.run(
        ["readelf", "-d", OURS], capture_output=True, text=True, check=True
    ).stdout
    assert "Library soname: [libpcap.so.0.8]" in words
