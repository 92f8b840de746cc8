"""The limits of one fal-poller, met over its real control socket; and all is free again after."""

import errno
import resource
import subprocess

import pytest
from support import BIN, NULL, assert_books, eventually, number

import fal
from fal.bindings import lib


@pytest.fixture(autouse=True)
def many_descriptors():
    """Four a socket: more than the usual 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def poller(start_poller):
    return start_poller("x", *NULL, "--wait", str(lib.FAL_MAX_SOCKETS))  # no packets come


def all_is_free(poller):
    def check():
        report = poller.look()
        return not report["groups"] and not report["sockets"] and report["frames_free"]

    return eventually(check, 20)


def refused(code, *words):
    pattern = "".join(f"(?=.*{word})" for word in words)
    return pytest.raises(fal.FalError, match=pattern, check=lambda e: e.errno == code)


def test_sockets_and_members(start_poller):
    """256 sockets in one group, one more refused; then half go and come again."""
    poller = start_poller("x", *NULL, "--wait", str(lib.FAL_MAX_SOCKETS), "--hash-seed", "1")
    free = all_is_free(poller)
    few = lib.FAL_MAX_SOCKETS - 1
    sockets = [fal.open(poller.device, group=5, fanout="lb", ring=64) for _ in range(few)]
    sockets.append(fal.open(poller.device, group=5, ring=64))  # and the packets come
    assert [s.member for s in sockets] == list(range(lib.FAL_GROUP_MEMBERS))
    for more in ({}, {"group": 5}, {"group": 6}):
        with refused(errno.ENOSPC, f"all {lib.FAL_MAX_SOCKETS} sockets"):
            fal.open(poller.device, ring=64, **more)
    eventually(lambda: all(s.stats().recv == 64 for s in sockets))
    assert_books(poller.look())
    for s in sockets[::2]:
        s.close()
    eventually(lambda: len(poller.group(5)["members"]) == lib.FAL_MAX_SOCKETS // 2)
    again = [fal.open(poller.device, group=6, ring=64) for _ in sockets[::2]]
    assert {s.member for s in again} == set(range(lib.FAL_MAX_SOCKETS // 2))
    assert_books(poller.look())
    for s in sockets + again:
        s.close()
    assert abs(all_is_free(poller) - free) <= lib.FAL_BURST  # what the source holds wavers


def test_groups(poller):
    free = all_is_free(poller)
    sockets = [fal.open(poller.device, group=i, ring=64) for i in range(lib.FAL_MAX_GROUPS)]
    with refused(errno.ENOSPC, f"all {lib.FAL_MAX_GROUPS} groups"):
        fal.open(poller.device, group=1000, ring=64)
    everything = fal.open(poller.device, ring=64)  # a socket in none takes none
    with refused(errno.ENOSPC, f"all {lib.FAL_MAX_GROUPS} groups"):
        everything.join(1000)
    assert everything.group is None
    everything.join(7)
    sockets[9].leave()
    sockets[9].join(1000)
    for s in [everything, *sockets]:
        s.close()
    assert all_is_free(poller) == free


def test_frames(poller):
    free = all_is_free(poller)
    sockets = [fal.open(poller.device, ring=4096) for _ in range(lib.FAL_DEFAULT_RINGS)]
    with refused(errno.ENOSPC, "no frames for a ring of 8192", str(12 * 4096), "--frames"):
        fal.open(poller.device, ring=8192)
    sockets.pop().close()
    eventually(lambda: len(poller.look()["sockets"]) == lib.FAL_DEFAULT_RINGS - 1)
    fal.open(poller.device, ring=4096).close()
    for s in sockets:
        s.close()
    assert all_is_free(poller) == free


def test_memberships_left_unread(start_poller):
    """Whoever moves on and on without reading is refused; fal-poller and the others go on."""
    poller = start_poller("x", *NULL)
    one = fal.open(poller.device, ring=64)
    eventually(lambda: one.stats().recv == 64)
    with refused(errno.EBUSY, "packets of 8 groups lie unread"):
        for turn in range(20):
            one.leave() if turn % 2 else one.join(turn)
    one.recv_batch()
    one.recv_batch(timeout=0)
    eventually(lambda: moves(one))
    one.close()

    sockets = [fal.open(poller.device, ring=64) for _ in range(80)]
    for s in sockets:
        eventually(lambda s=s: s.stats().recv == 64)
    with refused(errno.ENOSPC, "all records of memberships", "512"):
        for turn in range(20):
            for s in sockets:
                s.leave() if turn % 2 else s.join(turn)
    sockets[0].close()
    assert_books(poller.look())
    with fal.open(poller.device, group=60000, ring=64) as new:
        assert len(new.recv_batch(timeout=5)) > 0
    for s in sockets:
        s.close()
    all_is_free(poller)


def moves(s):
    """Whether it can leave its group or, in none, join one."""
    try:
        s.join(999) if s.group is None else s.leave()
    except fal.FalError as e:
        if e.errno != errno.EBUSY:
            raise
        return False
    return True


def test_too_few_descriptors(runtime, start_poller):
    """They are short: the one who asks is refused, with a line, and nobody else notices."""
    short = ["sh", "-c", 'ulimit -n 40; exec "$0" "$@"', str(BIN / "fal-poller"), "short", *NULL]
    process = subprocess.Popen(short, stderr=subprocess.PIPE, text=True)
    try:
        assert "ready" in process.stderr.readline()
        sockets = []
        with refused(errno.EMFILE, "fal-poller failed: Too many open files"):
            while True:
                sockets.append(fal.open("fal:short", ring=64))
        assert len(sockets) > 5
        assert len(sockets[0].recv_batch(timeout=5)) > 0
        sockets.pop().close()
        sockets.pop().close()
        eventually(lambda: opens("fal:short"))
        for s in sockets:
            s.close()
    finally:
        process.terminate()
        assert process.communicate()[1] == ""
    assert process.returncode == 0

    poller = start_poller("x", *NULL)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    sockets = []
    with refused(errno.EMFILE, "Too many open files|no descriptors left"):
        while True:
            sockets.append(fal.open(poller.device, ring=64))
    assert len(sockets) > 5
    for s in sockets:
        s.close()
    all_is_free(poller)


def opens(device):
    try:
        fal.open(device, ring=64).close()
    except fal.FalError:
        return False
    return True


def test_two_sockets_never_share_a_ring(start_poller):
    """Sockets of mixed sizes come and go under full load: each gets a growing row of numbers."""
    poller = start_poller("x", *NULL, "--frames", "16384")
    living = []
    for turn in range(60):
        if len(living) > 6:
            living.pop(turn * 7 % 6).close()
        living.append(fal.open(poller.device, group=turn % 2, ring=64 << turn % 4))
        for s in living:
            numbers = [number(packet) for packet in s.recv_batch(max=4096, timeout=5)]
            assert numbers == sorted(set(numbers))
    report = poller.look()
    assert_books(report)
    for s in living:
        s.close()
    all_is_free(poller)
