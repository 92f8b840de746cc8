"""A program written for pcap_fanout: four threads, each with a handle in one group.

Usage: pcap_threads.py DEVICE GROUP FANOUT COUNT.  It says what pcap_threads.c does.
"""

import sys
import threading
import time

from fal import pcap

NUMBER = slice(42, 50)  # where it lies in a packet


def main() -> None:
    device, group, fanout, count = sys.argv[1:]
    handles = [pcap.open_live(device, to_ms=10) for _ in range(4)]
    got: list[list[int]] = [[] for _ in handles]

    def work(p: pcap.Pcap, mine: list[int]) -> None:
        p.loop(-1, lambda _, data: mine.append(int.from_bytes(data[NUMBER], "big")))

    for p in handles:
        p.fanout(int(group), fanout)
    threads = [threading.Thread(target=work, args=a) for a in zip(handles, got, strict=True)]
    for p, t in zip(handles, threads, strict=True):
        p.fileno()
        t.start()
    print("ready", flush=True)
    while sum(map(len, got)) < int(count):
        time.sleep(0.001)
    time.sleep(0.1)
    for thread, (p, t, mine) in enumerate(zip(handles, threads, got, strict=True)):
        p.breakloop()
        t.join()
        p.close()
        for number in mine:
            print(thread, number)


if __name__ == "__main__":
    main()
