"""Groups and admission by themselves: numbering as in the kernel, and rings that never overlap."""

import errno
import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import fal
from fal import admission, groups
from fal.bindings import lib


def socket(number: int = 1) -> groups.Socket:
    return groups.Socket(number, number, 1, 64)


def placed(all_groups: groups.Groups, group: int, word: str = "", number: int = 1) -> groups.Socket:
    s = socket(number)
    all_groups.place(s, group, word)
    return s


class Kernel(RuleBasedStateMachine):
    """Random opens, joins, leaves, starts and closes, against how the kernel keeps its array."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = groups.Groups()
        self.sockets: list[groups.Socket] = []
        self.array: dict[int, list[groups.Socket]] = {}  # af_packet.c: f->arr
        self.waiting: list[groups.Socket] = []  # admitted
        self.where: dict[groups.Socket, int] = {}

    def link(self, s: groups.Socket) -> None:  # __fanout_link
        if s not in self.waiting:
            self.array.setdefault(self.where[s], []).append(s)

    def unlink(self, s: groups.Socket) -> None:  # __fanout_unlink
        if s not in self.waiting:
            array = self.array[self.where[s]]
            array[array.index(s)] = array[-1]
            array.pop()

    @rule(group=st.integers(-1, 1))
    def open(self, group: int) -> None:
        s = placed(self.groups, group, number=len(self.sockets))
        self.sockets.append(s)
        self.waiting.append(s)
        self.where[s] = group

    def any(self, data: st.DataObject) -> groups.Socket:
        return data.draw(st.sampled_from(list(self.where)))

    @precondition(lambda self: self.where)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        s = self.any(data)
        self.groups.start(s)
        if s in self.waiting:
            self.waiting.remove(s)
            self.link(s)

    @precondition(lambda self: self.where)
    @rule(data=st.data(), group=st.integers(-1, 1))
    def move(self, data: st.DataObject, group: int) -> None:
        s = self.any(data)
        self.groups.place(s, group, "")
        self.unlink(s)
        self.where[s] = group
        self.link(s)

    @precondition(lambda self: self.where)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        s = self.any(data)
        self.groups.remove(s)
        self.groups.remove(s)  # harmless
        self.unlink(s)
        del self.where[s]
        if s in self.waiting:
            self.waiting.remove(s)

    @invariant()
    def numbers_are_the_kernels(self) -> None:
        numbered = [g for g in self.groups.groups if g.id >= 0]
        assert sorted(g.id for g in numbered) == sorted({g for g in self.where.values() if g >= 0})
        for g in numbered:
            assert g.started == self.array.get(g.id, [])
            assert set(g.admitted) == {s for s in self.waiting if self.where[s] == g.id}
        nameless = [g.members for g in self.groups.groups if g.id < 0]
        assert sorted(s.number for members in nameless for s in members) == sorted(
            s.number for s, group in self.where.items() if group < 0
        )
        assert all(len(members) == 1 for members in nameless)
        assert all(s.group and s in s.group.members for s in self.where)


TestKernel = Kernel.TestCase
TestKernel.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


def test_modes() -> None:
    g = groups.Groups()
    hashed = placed(g, 1)
    assert hashed.group
    assert str(hashed.group.fanout) == "hash"
    assert placed(g, 1, "HASH").group is placed(g, 1).group is hashed.group
    with pytest.raises(fal.FalError, match="group 1 has mode hash, not lb") as e:
        placed(g, 1, "lb")
    assert e.value.errno == errno.EINVAL
    with pytest.raises(fal.FalError, match="unknown fan-out mode 'flew'") as e:
        placed(g, 2, "flew")
    assert e.value.errno == errno.EINVAL
    for bad in (-2, 65536):
        with pytest.raises(fal.FalError, match=f"group {bad}: ids are 0 to 65535"):
            placed(g, bad)
    assert [group.id for group in g.groups] == [1]


def test_a_refused_move_changes_nothing() -> None:
    g = groups.Groups()
    placed(g, 1, "lb")
    mover = placed(g, 2, "hash")
    with pytest.raises(fal.FalError):
        g.place(mover, 1, "hash")
    assert mover.group
    assert mover.group.id == 2
    assert mover.group.members == [mover]


def test_limits() -> None:
    g = groups.Groups()
    for i in range(lib.FAL_MAX_GROUPS):
        placed(g, i)
        placed(g, -1)  # the nameless do not count
    with pytest.raises(fal.FalError, match=f"all {lib.FAL_MAX_GROUPS} groups") as e:
        placed(g, 1000)
    assert e.value.errno == errno.ENOSPC
    for _ in range(lib.FAL_GROUP_MEMBERS - 1):
        placed(g, 0)
    with pytest.raises(fal.FalError, match=f"group 0 has all {lib.FAL_GROUP_MEMBERS} mem") as e:
        placed(g, 0)
    assert e.value.errno == errno.ENOSPC


# ---- admission ---------------------------------------------------------------------------------

ROOM = 12 * 4096


def arena(room: int = ROOM, queues: int = 1) -> admission.Admission:
    frames = admission.reserved(queues) + room
    return admission.Admission(frames, queues, admission.ring_slots(frames, queues))


def test_the_bound() -> None:
    """frames >= sum over queues (R + D + B) + T + sum over sockets of C, to the last frame."""
    assert admission.reserved(3) == 3 * (lib.FAL_RX_RING + lib.FAL_BURST) + lib.FAL_TX_FRAMES
    assert admission.default_frames(1) == admission.reserved(1) + ROOM
    a = arena(queues=3)
    for socket in range(12):
        a.admit(socket, 4096)
    with pytest.raises(fal.FalError) as e:
        a.admit(99, 64)
    assert e.value.errno == errno.ENOSPC
    for figure in (64, a.frames, admission.reserved(3), 12 * 4096, 0):
        assert str(figure) in str(e.value)
    a.release(5)
    with pytest.raises(fal.FalError, match="4096 are left"):
        a.admit(99, 8192)
    a.admit(99, 4096)


@given(st.integers(0, 2**32))
def test_rings_never_overlap(seed: int) -> None:
    """Random sizes come and go: in bounds, apart, and refused only where nothing fits."""
    chance = random.Random(seed)
    a = arena(1 << chance.randrange(8, 18))
    for socket in range(200):
        if a.taken and chance.random() < 0.4:
            a.release(chance.choice(list(a.taken)))
        capacity = 1 << chance.randrange(6, 15)
        before = dict(a.taken)
        if capacity > a.frames - admission.reserved(1) - sum(ring for _, ring in before.values()):
            with pytest.raises(
                fal.FalError, match=f"no frames for a ring of {capacity}:.*are left"
            ):
                a.admit(socket, capacity)
            assert a.taken == before
        else:
            with suppress(fal.FalError):  # it may be in pieces
                assert a.taken == before | {socket: (a.admit(socket, capacity), capacity)}
        rings = sorted(a.taken.values())
        ends = [first + admission.HEAD + ring for first, ring in rings]
        assert all(end <= first for end, (first, _) in zip(ends, rings[1:], strict=False))
        assert not ends or ends[-1] <= a.slots
        assert sum(ring for _, ring in rings) <= a.frames - admission.reserved(1)


def test_all_sockets_of_one_size_fit() -> None:
    """Where frames allow, slots do: also for all sockets, and their heads."""
    a = arena(lib.FAL_MAX_SOCKETS * 256)
    for socket in range(lib.FAL_MAX_SOCKETS):
        a.admit(socket, 256)
    for socket in range(0, lib.FAL_MAX_SOCKETS, 2):
        a.release(socket)
        a.admit(socket, 256)
