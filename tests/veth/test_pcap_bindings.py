"""fal.pcap on a veth pair, served by fal-poller and by the kernel; programs written for fan-out."""

import errno
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support import eventually, ip, run, udp

import fal
from fal import pcap

FLOWS = 64
HERE = Path(__file__).parent
PACKAGE = Path(fal.__file__).parent


def frame(n):
    return udp(("10.0.0.1", 1000 + n % FLOWS), ("10.0.0.2", 53), n.to_bytes(8, "big"))


FRAMES = [frame(n) for n in range(500)]


@pytest.fixture(params=["fal", "tpacket", "plain"])
def veth_and_name(request, make_veth, start_poller):
    """A veth pair, and its inner end's name for fal-poller's engine, or for the kernel's."""
    veth = make_veth()
    if request.param == "fal":
        return veth, start_poller(veth.device, "--mode", "generic", namespace=veth.inside).device
    return veth, "tpacket:" * (request.param == "tpacket") + veth.device


@pytest.fixture
def opened(veth_and_name):
    """Open handles on it, which are closed afterwards."""
    veth, name = veth_and_name
    made = []

    def opened(to_ms=10, **how):
        with veth.inside.entered():
            made.append(pcap.open_live(name, to_ms=to_ms, **how))
        return made[-1]

    yield opened
    for p in made:
        p.close()


def rest(p):
    """What comes within some of the kernel's turns, without waiting for a number."""
    p.setnonblock(True)
    time.sleep(0.1)
    got = []
    p.dispatch(-1, lambda _, data: got.append(data))
    p.setnonblock(False)
    return got


def test_bytes_order_once(veth_and_name, opened):
    veth, _ = veth_and_name
    p, got = opened(), []
    assert rest(p) == []
    before = time.time_ns()
    veth.send(*FRAMES)
    after = time.time_ns()
    assert p.loop(len(FRAMES), lambda *packet: got.append(packet)) == len(FRAMES)
    assert [data for _, data in got] == FRAMES
    stamps = [h.ts_ns for h, _ in got]
    assert stamps == sorted(stamps)
    assert before < stamps[0] < stamps[-1] < after
    assert any(ts_ns % 1000 for ts_ns in stamps)
    assert {(h.caplen, h.len) for h, _ in got} == {(len(FRAMES[0]),) * 2}
    assert rest(p) == []
    assert p.stats() == (len(FRAMES), 0, 0)


def test_snaplen_and_filter(veth_and_name, opened):
    veth, _ = veth_and_name
    p = opened(snaplen=42)  # the ports are in it: libpcap looks at what it had cut, too
    p.setfilter("udp src port 1007")
    veth.send(*FRAMES)
    got, matching = [], FRAMES[7::FLOWS]
    assert p.loop(8, lambda *packet: got.append(packet)) == 8
    assert [(h.len, data) for h, data in got] == [(len(data), data[:42]) for data in matching]


def test_a_group_shares_by_flow(veth_and_name, opened):
    veth, _ = veth_and_name
    handles = [opened(), opened()]
    for p in handles:
        p.fanout(7, "hash")
    assert all(rest(p) == [] for p in handles)  # the first read is when traffic is taken
    veth.send(*FRAMES)
    got = [[], []]

    def look():
        for p, mine in zip(handles, got, strict=True):
            mine += rest(p)
        return sum(map(len, got)) >= len(FRAMES)

    eventually(look)
    assert sorted(got[0] + got[1]) == sorted(FRAMES)
    assert not {*map(fal.flow_hash, got[0])} & {*map(fal.flow_hash, got[1])}
    assert all(got)
    with pytest.raises(fal.FalError, match="already in group 7"):
        handles[0].fanout(8)


def test_waiting(veth_and_name, opened):
    """A timeout is one, also where libpcap's own is none; a wait can be broken.

    Without one, dispatch waits for the first packet, but for no more.
    """
    veth, name = veth_and_name
    p = opened(to_ms=50)
    begin = time.monotonic()
    assert p.next() == (None, b"")
    assert p.dispatch(0, print) == 0
    assert 0.1 <= time.monotonic() - begin < 5
    threading.Timer(0.1, p.breakloop).start()
    assert p.loop(0, print) == 0
    with veth.inside.entered(), pcap.create(name) as for_ever:
        for_ever.set_immediate_mode(True)  # else the kernel would wait for ever, too
        for_ever.activate()
        threading.Timer(0.1, veth.send, FRAMES[:1]).start()
        assert for_ever.dispatch(0, lambda *_: None) == 1


def test_the_descriptor(veth_and_name, opened):
    """Readable when packets come and while some are left."""
    veth, _ = veth_and_name
    p, got = opened(), []
    p.setnonblock(True)
    fd = p.fileno()
    assert rest(p) == []
    p.setnonblock(True)
    for some in (FRAMES[:3], FRAMES[3:100]):
        veth.send(*some)
        while some[-1] not in got:
            assert select.select([fd], [], [], 5)[0] == [fd]
            p.dispatch(1, lambda _, data: got.append(data))
    assert got == FRAMES[:100]


def test_sending_and_direction(veth_and_name, opened):
    """What is sent goes out; the kernel shows it to others that listen there, but for D_IN."""
    veth, name = veth_and_name
    p, both, only_in, only_out = opened(), opened(), opened(), opened()
    only_in.setdirection(pcap.D_IN)
    only_out.setdirection(pcap.D_OUT)
    with veth.outside.entered(), pcap.open_live(veth.peer, to_ms=10) as peer:
        assert p.inject(FRAMES[0]) == len(FRAMES[0])
        assert p.sendpacket(memoryview(FRAMES[1])) == len(FRAMES[1])
        got = []
        assert peer.loop(2, lambda _, data: got.append(data)) == 2
        assert got == FRAMES[:2]
    with pytest.raises(fal.FalError) as raised:
        p.inject(bytes(9000))
    assert raised.value.errno == errno.EIO
    veth.send(FRAMES[2])
    shown = [] if name.startswith("fal:") else FRAMES[:2]
    assert rest(both) == [*shown, FRAMES[2]]
    assert rest(only_in) == rest(p) == [FRAMES[2]]
    assert rest(only_out) == shown


def test_a_device_that_goes_away(veth_and_name, opened):
    veth, name = veth_and_name
    p = opened()
    threading.Timer(0.1, ip, ("-n", veth.inside.name, "link", "delete", veth.device)).start()
    with pytest.raises(fal.FalError, match=rf"\A{name}: [^\n]+\Z") as raised:
        p.loop(0, print)
    assert raised.value.errno == errno.EIO


def test_ctrl_c(make_veth):
    """Also where the kernel alone captures, and none of the packets come."""
    veth = make_veth()
    program = f"""if True:
        from fal import pcap
        with pcap.open_live("{veth.device}", to_ms=0) as p:
            print("ready", flush=True)
            try:
                p.loop(0, print)
            except KeyboardInterrupt:
                print("interrupted")
    """
    command = veth.inside.command(sys.executable, "-Pc", program)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "interrupted\n"


def built(directory):
    """Compile the C program as a user of the library would."""
    made, pc = directory / "pcap_threads", PACKAGE / "lib/pkgconfig/libfal-pcap.pc"
    flags = run("pkg-config", "--cflags", "--libs", pc).stdout.split()
    source = HERE / "pcap_threads.c"
    done = run("cc", "-Wall", "-Wextra", "-Werror", "-pthread", source, "-o", made, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    return [made]


@pytest.mark.parametrize("language", ["c", "python"])
def test_programs_of_four_threads(veth_and_name, tmp_path, language):
    """Written for pcap_fanout: each packet meets one thread, all of a flow the same."""
    veth, name = veth_and_name
    program = {
        "c": built,
        "python": lambda _: [sys.executable, "-P", str(HERE / "pcap_threads.py")],
    }
    words = [*program[language](tmp_path), name, "42", "hash", str(len(FRAMES))]
    with subprocess.Popen(
        veth.inside.command(*words), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        veth.send(*FRAMES)
        got = [tuple(map(int, line.split())) for line in process.stdout]
    assert process.returncode == 0
    assert sorted(n for _, n in got) == list(range(len(FRAMES)))
    assert len({(thread, n % FLOWS) for thread, n in got}) == FLOWS
    assert {thread for thread, _ in got} == {0, 1, 2, 3}
