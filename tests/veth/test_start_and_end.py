"""What fal-poller must be allowed, what it changes, and how it ends."""

import errno
import signal
import socket

import pytest
from support import eventually, ip, received, send_slowly, udp

import fal

MODES = ("generic", "native")
FRAMES = [udp(("10.0.0.1", 1000 + i), ("10.0.0.2", 53)) for i in range(100)]
NEEDED = ("net_raw", "net_admin", "bpf")


def link(veth):
    """Return what `ip link` says of the device, in words."""
    return ip("-n", veth.inside.name, "-d", "link", "show", "dev", veth.device).split()


def promiscuity(veth):
    words = link(veth)
    return words[words.index("promiscuity") + 1]


def allowed(*capabilities):
    """Return the command that leaves nothing but these to what it starts."""
    some = ",".join(["-all", *(f"+{c}" for c in capabilities)])
    return ["setpriv", f"--bounding-set={some}"]


# ---- privileges ------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [("net_raw",), ("net_admin",), ("bpf",), NEEDED])
def test_a_missing_capability_is_named(make_veth, start_poller, missing):
    veth = make_veth()
    have = [c for c in NEEDED if c not in missing]
    line = start_poller(
        veth.device, namespace=veth.inside, through=allowed(*have, "ipc_lock"), ready=False
    ).refused()
    names = "".join(f" CAP_{c.upper()}" for c in missing)
    assert f"missing{names};" in line
    assert not any(word.startswith("xdp") for word in link(veth))


@pytest.mark.parametrize("words", [(), ("--pass", "arp or port 22 or len > 2000")])
def test_no_more_than_these_are_needed(make_veth, start_poller, words):
    veth = make_veth()
    enough = allowed(*NEEDED, "ipc_lock")
    poller = start_poller(veth.device, *words, namespace=veth.inside, through=enough)
    with fal.open(poller.device) as s:
        send_slowly(veth, FRAMES, s)
        assert len(received(s)) == len(FRAMES)
    assert poller.stop() == 0


def test_the_limit_of_locked_memory(make_veth, start_poller):
    veth = make_veth()
    line = start_poller(
        *(veth.device, "--hugepages", "off"),
        namespace=veth.inside,
        through=["prlimit", "--memlock=4194304:4194304", *allowed(*NEEDED)],
        ready=False,
    ).refused()
    assert "4.0 MiB of locked memory" in line
    assert "ulimit -l" in line
    assert "CAP_IPC_LOCK" in line
    assert not any(word.startswith("xdp") for word in link(veth))


# ---- what is changed is put back -----------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_everything_is_put_back(make_veth, start_poller, mode, number):
    veth = make_veth()
    before = link(veth)
    assert promiscuity(veth) == "0"
    poller = start_poller(veth.device, "--mode", mode, namespace=veth.inside)
    assert promiscuity(veth) == "1"
    assert {"generic": "xdpgeneric", "native": "xdp"}[mode] in link(veth)
    with fal.open(poller.device, group=1) as s, fal.open(poller.device) as everything:
        send_slowly(veth, FRAMES, everything)
        poller.process.send_signal(signal.SIGHUP)  # harmless
        send_slowly(veth, FRAMES, everything)
        poller.process.send_signal(number)
        got = []
        if number == signal.SIGKILL:
            with pytest.raises(fal.PollerGone):
                got.extend(frame for _, frame in s)
        else:
            got.extend(frame for _, frame in s)  # it ends
            received_all = [len(batch) for batch in everything.batches()]
            assert sum(received_all) == 2 * len(FRAMES)
            with pytest.raises(EOFError):
                everything.recv_batch()
        assert got == 2 * FRAMES
    assert poller.wait() == (-number if number == signal.SIGKILL else 0)
    assert poller.lines[-1].startswith("fal-poller: ready ")
    eventually(lambda: link(veth) == before)
    with pytest.raises(fal.FalError) as refused:
        fal.open(poller.device)
    assert refused.value.errno in (errno.ENOENT, errno.ECONNREFUSED)


def test_no_promisc(make_veth, start_poller):
    veth = make_veth()
    poller = start_poller(veth.device, "--no-promisc", namespace=veth.inside)
    assert promiscuity(veth) == "0"
    assert poller.stop() == 0
    assert promiscuity(veth) == "0"


def test_promisc_of_others_stays(make_veth, start_poller):
    veth = make_veth()
    ip("-n", veth.inside.name, "link", "set", veth.device, "promisc", "on")
    assert start_poller(veth.device, namespace=veth.inside).stop() == 0
    assert promiscuity(veth) == "1"


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(start_poller, tmp_path, monkeypatch, abstract):
    address = f"@{tmp_path}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0", 1))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        poller = start_poller("x", "--backend", "null")
        assert manager.recv(100) == b"READY=1"
        assert poller.stop() == 0
        assert manager.recv(100) == b"STOPPING=1"
