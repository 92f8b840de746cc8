"""What `for ts, data in socket` is made of: copies of whole packets, however they lie."""

import sys

import numpy as np
import pytest
from support import run

from fal.bindings import copies, lib
from fal.layout import DESCRIPTOR

FRAMES = bytes(range(256)) * 4
FIRST, MORE = lib.FAL_DESC_FIRST, lib.FAL_DESC_MORE


def descriptors(*packets: tuple[int, int, int]) -> memoryview:
    """Offset, caplen and flags of each; the n-th is of second n."""
    made = np.zeros(len(packets), DESCRIPTOR)
    for n, (offset, caplen, flags) in enumerate(packets):
        made[n]["ts_ns"] = n * 10**9
        made[n]["offset"], made[n]["caplen"], made[n]["flags"] = offset, caplen, flags
    return memoryview(made.tobytes())


def test_one_after_the_other():
    times, packets = copies(descriptors((300, 4, FIRST), (0, 2, FIRST)), FRAMES, 65535)
    assert (times, packets) == ([0.0, 1.0], [FRAMES[300:304], FRAMES[:2]])
    assert copies(b"", FRAMES, 65535) == ([], [])


@pytest.mark.parametrize("snaplen", [1, 3, 4, 5, 7, 8, 9, 100])
def test_pieces_are_joined_and_cut_where_asked(snaplen):
    pieces = (512, 4, FIRST | MORE), (16, 4, MORE), (1020, 4, 0), (8, 2, FIRST)
    times, packets = copies(descriptors(*pieces), FRAMES, snaplen)
    whole = FRAMES[512:516] + FRAMES[16:20] + FRAMES[1020:1024]
    assert (times, packets) == ([0.0, 3.0], [whole[:snaplen], FRAMES[8:10][:snaplen]])


@pytest.mark.parametrize(
    "packet", [(1021, 4, FIRST), (1025, 0, FIRST), (2**64 - 1, 4, FIRST), (0, 1025, FIRST)]
)
def test_nothing_is_read_outside_of_the_frames(packet):
    with pytest.raises(ValueError, match="outside of the frames"):
        copies(descriptors((0, 60, FIRST), packet), FRAMES, 65535)


def test_a_packet_whose_end_is_missing_ends_where_they_do():
    assert copies(descriptors((0, 4, FIRST | MORE)), FRAMES, 65535)[1] == [FRAMES[:4]]


CHANGING = """
import mmap, os
from fal.bindings import copies, ffi
ring = ffi.from_buffer("struct fal_desc[128]", mmap.mmap(-1, 4096), require_writable=True)
for d in ring:
    d.caplen, d.flags = 64, 1  # one packet in pieces
parent = os.getpid()
if not os.fork():
    while os.getppid() == parent:
        for offset in (1 << 45, 0):
            for d in ring:
                d.offset = offset
    os._exit(0)
refused = 0
while refused < 10000:
    try:
        copies(ffi.buffer(ring), bytes(4096), 65535)
    except ValueError:
        refused += 1
"""


def test_descriptors_may_change_meanwhile():
    done = run(sys.executable, "-P", "-c", CHANGING)
    assert (done.returncode, done.stderr) == (0, "")
