"""What workers send: whole, in order, counted, and nobody's loss."""

import contextlib
import errno
import os
import random
import signal
import socket
import threading
import time
from collections import Counter

import pytest
from crash.hostile import Hostile, Sender
from support import NULL, assert_books, eventually, ip, udp

import fal
from fal.bindings import ffi, lib

FRAMES = [udp(("10.0.0.1", 1000 + n), ("10.0.0.2", 53), bytes([n & 255]) * n) for n in range(1473)]
SLOTS = lib.FAL_TX_SLOTS


def listener(veth):
    """Return a packet socket on the other end of the device, with room for all that is sent."""
    with veth.outside.entered():
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    s.bind((veth.peer, 3))  # ETH_P_ALL
    s.settimeout(5)
    return s


@pytest.fixture
def outside(served):
    with listener(served[0]) as s:
        yield s


def hear(outside, n):
    """Receive n frames that others have sent."""
    got = []
    while len(got) < n:
        data, (_, _, kind, *_) = outside.recvfrom(4096)
        if kind != socket.PACKET_OUTGOING:
            got.append(data)
    return got


def test_what_is_injected_goes_out(served, outside):
    """Byte-exact and in order, from several sockets, while packets come in."""
    veth, poller = served
    with fal.open(poller.device) as a, fal.open(poller.device, group=1) as b:
        for frame in FRAMES[:3]:  # one at a time: each wakes a sleeping poller
            assert a.inject(frame) == len(frame)
            assert hear(outside, 1) == [frame]
        for s in (a, b):
            left = list(FRAMES)
            while left:
                n = s.inject_many(left)
                assert hear(outside, n) == left[:n]
                left = left[n:]
        veth.send(*FRAMES[:50])
        eventually(lambda: a.stats().recv == 50)
        report = eventually(lambda: (r := poller.look())["sent"] == 3 + 2 * len(FRAMES) and r)
        assert report["send_failed"] == 0
        assert report["link_received"] == 50
        assert_books(report)
    held = 2 * lib.FAL_BURST if poller.ready["backend"] == "tpacket" else lib.FAL_RX_RING
    idle = int(poller.ready["frames"]) - int(poller.ready["queues"]) * held
    eventually(lambda: poller.look()["frames_free"] == idle)


@pytest.mark.parametrize("pollers", [1, 2])
@pytest.mark.parametrize("idle", ["sleep", "adaptive"])
def test_each_frame_wakes_a_sleeping_poller(make_veth, start_poller, idle, pollers):
    """At once, not at its next tick: a frame whose wake-up got lost would come a second later."""
    veth = make_veth(queues=pollers)
    cpus = ",".join(map(str, range(pollers)))
    poller = start_poller(veth.device, "--idle", idle, "--cpus", cpus, namespace=veth.inside)
    draw = random.Random(1)
    with (
        listener(veth) as outside,
        fal.open(poller.device, ring=64) as a,
        fal.open(poller.device, ring=64) as b,
    ):
        outside.settimeout(0.5)
        for i in range(5000):
            (a, b)[i & 1].inject(FRAMES[i % 1400])
            assert hear(outside, 1) == [FRAMES[i % 1400]]
            end = time.perf_counter() + draw.uniform(0, 20e-6) + 50e-6 * (idle == "adaptive")
            while time.perf_counter() < end:
                pass  # about when it goes to sleep


def test_what_cannot_be_sent_is_refused(served):
    _, poller = served
    most = 1518 if poller.ready["backend"] == "tpacket" else 1522
    with fal.open(poller.device) as s:
        for length in (0, 13, most + 1, 5000):
            with pytest.raises(fal.FalError, match=f"a frame of {length} bytes.*14 to {most}") as e:
                s.inject(bytes(length))
            assert e.value.errno == errno.EMSGSIZE


@pytest.mark.parametrize("how", [("--backend", "tpacket"), ("--mode", "generic")])
def test_what_the_device_refuses_is_counted(make_veth, start_poller, how):
    """It has no carrier while the other end is down."""
    veth = make_veth()
    poller = start_poller(veth.device, *how, namespace=veth.inside)
    with fal.open(poller.device) as s:
        s.inject(FRAMES[0])
        eventually(lambda: poller.look()["sent"] == 1)
        ip("-n", veth.outside.name, "link", "set", veth.peer, "down")
        assert s.inject_many(FRAMES[:20]) == 20
        report = eventually(lambda: (r := poller.look())["send_failed"] and r)
        assert (report["sent"], report["send_failed"]) == (21, 20)


def test_a_full_area(make_veth, start_poller):
    veth = make_veth()
    poller = start_poller(veth.device, namespace=veth.inside)
    with fal.open(poller.device) as s:
        s.inject(FRAMES[0])
        eventually(lambda: poller.look()["sent"] == 1)
        poller.process.send_signal(signal.SIGSTOP)
        os.waitpid(poller.pid, os.WUNTRACED)
        assert s.inject_many([FRAMES[0]] * 1000) == SLOTS
        with pytest.raises(fal.FalError, match=f"{SLOTS} frames are waiting") as e:
            s.inject(FRAMES[0])
        assert e.value.errno == errno.EAGAIN
        poller.process.send_signal(signal.SIGCONT)
        eventually(lambda: poller.look()["sent"] == 1 + SLOTS)
        assert s.inject(FRAMES[0])


def test_what_was_injected_before_a_close_still_goes_out(make_veth, start_poller):
    """Of many at a time, so that the poller hears of their ends before it has sent all."""
    veth = make_veth()
    poller = start_poller(veth.device, namespace=veth.inside)
    with listener(veth) as outside:
        sockets = [fal.open(poller.device, ring=64) for _ in range(20)]
        for s in sockets:
            s.inject(FRAMES[0])
        assert hear(outside, len(sockets)) == [FRAMES[0]] * len(sockets)
        poller.process.send_signal(signal.SIGSTOP)
        os.waitpid(poller.pid, os.WUNTRACED)
        for s in sockets:
            assert s.inject_many(FRAMES[:SLOTS]) == SLOTS
            s.close()
        poller.process.send_signal(signal.SIGCONT)
        sent = Counter(hear(outside, len(sockets) * SLOTS))
        assert sent == {frame: len(sockets) for frame in FRAMES[:SLOTS]}


def test_what_was_injected_before_a_death_still_goes_out(make_veth, start_poller):
    veth = make_veth()
    poller = start_poller(veth.device, namespace=veth.inside)
    with listener(veth) as outside:
        if (pid := os.fork()) == 0:
            s = fal.open(poller.device)
            os._exit(9 if s.inject_many(FRAMES[:SLOTS]) == SLOTS else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
        assert hear(outside, SLOTS) == FRAMES[:SLOTS]
        with fal.open(poller.device) as s:
            s.inject_many(FRAMES[:SLOTS])
            poller.process.send_signal(signal.SIGTERM)
            assert hear(outside, SLOTS) == FRAMES[:SLOTS]
        assert poller.wait() == 0


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_sending_to_a_poller_that_has_ended(start_poller, way):
    """Nothing is taken for ever: what was not sent for want of a poller is told soon."""
    poller = start_poller("x", *NULL, "--wait", "9")

    def fill():
        for _ in range(SLOTS + 1):  # nobody knows at first
            s.inject(FRAMES[0])

    with fal.open(poller.device) as s:
        s.inject(FRAMES[0])
        getattr(poller, way)()
        with pytest.raises(fal.FalError) as e:
            fill()
        assert e.value.errno == (errno.ECONNRESET if way == "kill" else errno.ENODATA)


def test_who_reads_after_a_fork_sends_too(make_veth, start_poller):
    """The other has sent in between, and is dead; or was the first to send at all."""
    veth = make_veth()
    poller = start_poller(veth.device, namespace=veth.inside)
    for before in (1, 0):
        with listener(veth) as outside, fal.open(poller.device) as s:
            sent = s.inject_many(FRAMES[:before])
            if (pid := os.fork()) == 0:
                time.sleep(0.1)
                os._exit(9 if s.inject_many(FRAMES[11:21]) == 10 else 1)  # once its parent is dead
            sent += s.inject_many(FRAMES[1:11])
            lib.fal_detach(s._handle, ffi.NULL)  # who goes lets the other read
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
            assert hear(outside, sent + 10) == FRAMES[:before] + FRAMES[1:21]


def test_a_sender_that_never_stops_holds_nobody_up(start_poller):
    """Not when it leaves while it goes on filling its area, nor when fal-poller is to end."""
    poller = start_poller("x", *NULL, "--wait", "9", "--idle", "sleep")
    stopped = threading.Event()

    def flood(sender, fd):
        while not stopped.is_set():
            sender.area.producer = h.transmitted + SLOTS  # all of length 0: never sent
            with contextlib.suppress(OSError):
                os.write(fd, bytes(65536))

    with fal.open(poller.device) as honest, Hostile(poller).open(ring=64) as h:
        sender = Sender(h)
        os.set_blocking(sender.wake_fd, False)
        fd = os.dup(sender.wake_fd)
        threads = [threading.Thread(target=flood, args=(sender, fd)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                honest.join(1)
                honest.leave()
            h.control.close()
            eventually(lambda: len(poller.look()["sockets"]) == 1)
            honest.join(2)
            assert poller.stop() == 0
        finally:
            stopped.set()
            for thread in threads:
                thread.join()
            os.close(fd)


def test_one_process_sends(start_poller):
    poller = start_poller("x", *NULL, "--wait", "9")
    with fal.open(poller.device) as s:
        s.inject(FRAMES[0])
        if (pid := os.fork()) == 0:
            try:
                s.inject(FRAMES[0])
            except OSError as e:
                os._exit(e.errno)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == errno.EBUSY


# ---- hostile workers -----------------------------------------------------------------------------


def test_hostile_senders(make_veth, start_poller):
    """Lengths and indices out of range, a full wake socket, pages pulled away."""
    veth = make_veth()
    poller = start_poller(veth.device, "--idle", "sleep", namespace=veth.inside)
    with fal.open(poller.device, group=1) as honest:
        with Hostile(poller).open(ring=64) as h:
            sender = Sender(h)
            sender = Sender(h)  # asked again: the same
            for i, length in enumerate((0, 13, 1523, 4097, 2**31, 2**32 - 1)):
                sender.area.length[i] = length
                sender.area.producer = i + 1
            os.set_blocking(sender.wake_fd, False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(10000):
                    os.write(sender.wake_fd, bytes(4096))
            eventually(lambda: poller.look()["send_failed"] == 6)
            assert poller.look()["sent"] == 0
            for call in (os.truncate, os.posix_fallocate):
                words = (0,) if call is os.truncate else (0, lib.FAL_TX_AREA * 2)
                with pytest.raises(OSError, match="not permitted"):
                    call(
                        f"/proc/self/fd/{sender.area_fd}" if len(words) == 1 else sender.area_fd,
                        *words,
                    )
            sender.area.producer = 6 + SLOTS + 1  # impossible
            os.write(sender.wake_fd, b"x")
            reply = eventually(h.reply)
            assert (reply.type, reply.code) == (lib.FAL_BYE, errno.EPROTO)
        for _ in range(50):  # it goes while it is being served
            with Hostile(poller).open(ring=64) as h:
                sender = Sender(h)
                for i in range(SLOTS):
                    sender.area.length[i] = 60
                sender.area.producer = SLOTS
                os.set_blocking(sender.wake_fd, True)
                os.write(sender.wake_fd, b"x")
        veth.send(FRAMES[0])
        assert len(honest.recv_batch(timeout=5)) == 1
        assert honest.inject(FRAMES[0])
        eventually(lambda: len(poller.look()["sockets"]) == 0)
        report = eventually(lambda: (r := poller.look())["sent"] == 50 * SLOTS + 1 and r)
        assert report["send_failed"] == 6
    assert poller.stop() == 0
