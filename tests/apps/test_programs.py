"""Unmodified programs, alone and as copies that share the traffic, over FAL and over the kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from apps.crowd import Crowd, preloaded
from apps.programs import FLOWS, PROGRAMS, TRAFFIC, Seen
from captures import read_pcap
from support import Poller, Veth, assert_books, ip

COPIES = {name: 3 if name in ("tcpdump", "pcapy-ng") else 2 for name in PROGRAMS}
GROUP = {name: 1 + n for n, name in enumerate(PROGRAMS)}
CASES = [(name, many) for name in PROGRAMS for many in (1, COPIES[name])]
WANTED_FRAMES = [f for n, f in enumerate(TRAFFIC[: 4 * FLOWS]) if n // FLOWS % 2 == 0]


@pytest.fixture(scope="module", params=["fal", "kernel"])
def crowd(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Crowd]:
    here, runtime = tmp_path_factory.mktemp("crowd"), tmp_path_factory.mktemp("run")
    for directory in (here, here.parent, here.parent.parent):  # tcpdump -Z writes here
        directory.chmod(0o755)
    config = here / "pcap.conf"
    config.write_text("rx_slots = 1024\n")  # so that all rings together are some 100 MB
    veth, poller = Veth(), None
    try:
        # arpwatch wants an address, darkstat's server a loopback device
        ip("-n", veth.inside.name, "address", "add", "10.3.0.254/24", "dev", veth.device)
        ip("-n", veth.inside.name, "link", "set", "lo", "up")
        if request.param == "fal":
            words = (veth.device, "--frames", "65536", "--hugepages", "off")
            env = os.environ | {"FAL_RUNTIME_DIR": str(runtime)}
            poller = Poller(*words, namespace=veth.inside, env=env).wait_ready()
        all_of_them = Crowd(veth, poller, here)
        try:
            environment = preloaded(FAL_RUNTIME_DIR=str(runtime), PCAP_CONFIG=str(config))
            for name, program in PROGRAMS.items():
                all_of_them.start(name, 1, **environment)
                mode = "hash" if poller else program.kernel_mode
                shared = {"PCAP_GROUP": str(GROUP[name]), "PCAP_FANOUT": mode}
                all_of_them.start(name, COPIES[name], **environment, **shared)
            all_of_them.wait_ready()
            all_of_them.send()
            all_of_them.end()
        finally:
            all_of_them.kill()
        yield all_of_them
    finally:
        if poller:
            poller.stop()
        veth.delete()


@pytest.mark.parametrize(("name", "many"), CASES)
def test_every_packet_once(crowd: Crowd, name: str, many: int) -> None:
    copies, program = crowd.copies[name, many], PROGRAMS[name]
    said = [(c.said("stdout")[-500:], c.said("stderr")[-500:]) for c in copies]
    assert sum((c.seen for c in copies), Seen()) == program.wanted, said
    assert all(c.seen for c in copies), said
    assert [c.status for c in copies] == [program.status] * many, said


def test_to_the_byte(crowd: Crowd) -> None:
    """What tcpdump wrote is what was sent, in order, each stamped when it was under way."""
    (copy,) = crowd.copies["tcpdump", 1]
    header, packets = read_pcap(copy.here / "out.pcap")
    assert header == (0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
    assert [data for _, data, _ in packets] == WANTED_FRAMES
    assert [length for _, _, length in packets] == list(map(len, WANTED_FRAMES))
    before = [crowd.times[TRAFFIC.index(data)] for _, data, _ in packets]
    stamps = [ns for ns, _, _ in packets]
    assert stamps == sorted(stamps)
    assert all(
        b // 1000 * 1000 <= ns <= crowd.arrived for b, ns in zip(before, stamps, strict=True)
    )


@pytest.mark.parametrize("crowd", ["fal"], indirect=True)
def test_the_books_balance(crowd: Crowd) -> None:
    """Of the programs' groups and sockets, as they were before the end: nothing was lost."""
    assert_books(crowd.report)
    # The ticks of the start may have met groups in which nobody was started yet.
    assert [g["drops"] for g in crowd.report["groups"]] == [
        g["drops"] | {"ring_full": 0} for g in crowd.early["groups"]
    ]
    assert not any(m["dropped"] for m in crowd.report["sockets"])
