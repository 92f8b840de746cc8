# SPDX-License-Identifier: BSD-3-Clause
"""Fan-out through the bindings; the buckets against the description in docs/fanout.md."""

import random

import pytest

from fal.bindings import ffi, lib

BUCKETS = lib.FAL_BUCKETS
MASK = (1 << 64) - 1


def build(ids: list[int]) -> list[int]:
    """The id of each bucket's owner."""
    table = ffi.new("uint8_t[]", BUCKETS)
    assert lib.fal_buckets_build(ids, len(ids), table) == 0
    return [ids[number] for number in table]


def mix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def preference(member: int) -> list[int]:
    """All buckets in the order in which the member with this id would like them."""
    buckets, state = list(range(BUCKETS)), mix(member)
    for i in range(BUCKETS):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        j = i + ((mix(state) >> 32) * (BUCKETS - i) >> 32)
        buckets[i], buckets[j] = buckets[j], buckets[i]
    return buckets


def described(ids: list[int]) -> list[int]:
    """The slow and plain way: members take turns by id, each takes its first free bucket."""
    owner = [-1] * BUCKETS
    likes = {member: iter(preference(member)) for member in ids}
    for turn in range(BUCKETS):
        member = sorted(ids)[turn % len(ids)]
        owner[next(bucket for bucket in likes[member] if owner[bucket] < 0)] = member
    return owner


@pytest.mark.parametrize("ids", [[1], [1, 2, 3, 4, 5], [MASK, 0, 1 << 63]])
def test_buckets_as_described(ids: list[int]) -> None:
    assert build(ids) == described(ids)


def test_a_join_moves_few_buckets_and_stays_even() -> None:
    draw = random.Random(1)
    ids = [draw.getrandbits(64) for _ in range(12)]
    before, after = build(ids[:-1]), build(ids)
    moved = sum(old != new for old, new in zip(before, after, strict=True))
    assert moved / BUCKETS <= 1 / 12 + 0.05
    assert max(map(after.count, ids)) <= BUCKETS / 12 * 1.02


@pytest.mark.parametrize("members", [0, lib.FAL_GROUP_MEMBERS + 1])
def test_impossible_sizes_are_refused(members: int) -> None:
    table = ffi.new("uint8_t[]", BUCKETS)
    assert lib.fal_buckets_build([0] * members, members, table) == -1


def test_steering() -> None:
    packets = ffi.new("struct fal_desc[]", 4)
    for packet, value in zip(packets, [0, 1 << 18, (1 << 32) - 1, (1 << 18) - 1], strict=True):
        packet.hash = value
    table = ffi.new("uint8_t[]", [bucket % 3 for bucket in range(BUCKETS)])
    steering = ffi.new("struct fal_steering *", {"members": 3, "next": 1, "table": table})
    member = ffi.new("uint8_t[]", 4)

    burst = ffi.new("struct fal_burst *", {"packets": packets, "n": 4})
    steering.mode = lib.FAL_MODE_HASH
    lib.fal_steer(steering, burst, member)
    assert list(member) == [0, 1, (BUCKETS - 1) % 3, 0]

    steering.mode = lib.FAL_MODE_LB
    lib.fal_steer(steering, burst, member)
    assert list(member) == [1, 2, 0, 1]
    assert steering.next == 5
