"""Memory near the NIC: the node is read from sysfs, and the arena asked for there."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from support import NULL

from fal.bindings import ffi, lib
from fal.options import arguments as options_of
from fal.poller import make_arenas, numa_node


def test_the_node_of_a_device(tmp_path):
    """As recorded of a machine with two nodes; drivers without hardware have no such file."""
    for device, node in (("eth0", "0\n"), ("eth1", "1\n"), ("virtual", "-1\n"), ("odd", "x\n")):
        directory = tmp_path / "class" / "net" / device / "device"
        directory.mkdir(parents=True)
        (directory / "numa_node").write_text(node)
    (tmp_path / "class" / "net" / "veth0").mkdir()
    devices = ("eth0", "eth1", "virtual", "odd", "veth0", "none")
    assert [numa_node(d, tmp_path) for d in devices] == [0, 1, -1, -1, -1, -1]
    assert numa_node("lo") == -1


def policy(arena):
    """What the kernel says of the mapping's policy."""
    address = int(ffi.cast("uintptr_t", arena.address))
    lines = Path("/proc/self/numa_maps").read_text().splitlines()
    (line,) = (line for line in lines if int(line.split()[0], 16) == address)
    return line.split()[1]


@pytest.mark.parametrize("node", [-1, 0, 63, 64, 1000])
def test_the_arena_is_asked_for_there(node):
    """A node that is not there is not insisted on."""
    arena = ffi.new("struct fal_segment *")
    made = lib.fal_arena_create(64, 2048, 64, lib.FAL_HUGEPAGES_OFF, node, arena, ffi.NULL)
    assert made == 0
    assert policy(arena) == ("prefer:0" if node == 0 else "default")
    assert arena.node == 0 or node != 0
    lib.fal_segment_free(arena)


@pytest.mark.parametrize(("node", "wanted"), [(0, "prefer:0"), (-1, "default")])
def test_fal_poller_asks_for_its_device_s(monkeypatch, node, wanted):
    monkeypatch.setattr("fal.poller.numa_node", lambda device: node)
    options = options_of(["nosuch0", "--backend", "tpacket", "--hugepages", "off"])
    options.cpus = [0, 1]
    with ExitStack() as stack:
        arenas = make_arenas(options, 1, stack)
        assert [policy(arenas[i]) for i in (0, 1)] == [wanted] * 2


def test_the_status_shows_it(start_poller):
    poller = start_poller("x", *NULL)
    assert poller.stat()["cpus"][0]["node"] >= 0
