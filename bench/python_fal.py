"""A worker as its users write it: python_fal.py DEVICE packets|batches TURN TURNS LYING

It takes TURNS times TURN packets.  The clock stands while it waits, before each turn, until LYING
of them lie in its ring, and in the first of several turns, in which all memory is new.
"""

from __future__ import annotations

import sys
import time
from itertools import islice

from python_work import Clock, Table, counted, report

import fal


def main() -> None:
    device, how = sys.argv[1:3]
    turn, turns, lying = map(int, sys.argv[3:])
    clock, warm = Clock(), Clock()
    table, size = Table(), 0
    with fal.open(device) as s:
        for n in range(turns):
            while s.stats().recv < n * turn + lying:
                time.sleep(0.0001)
            with clock if n or turns == 1 else warm:
                if how == "packets":
                    for _ts, data in islice(s, turn):
                        size += len(data)
                else:
                    left = turn
                    while left:
                        with s.recv_batch(left) as batch:
                            table.count(batch.data, batch.heads["offset"])
                            left -= len(batch)
    report(clock, size=size, counted=counted(table.rows()))


main()
