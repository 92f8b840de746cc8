"""scapy: python_scapy.py FILE packets|counted

Its raw reader: to dissect packets, as sniff() does, takes a hundred times as long.
"""

from __future__ import annotations

import sys

from python_work import Clock, counted, protocol_and_port, report, table
from scapy.utils import RawPcapReader


def main() -> None:
    path, how = sys.argv[1:]
    clock, size, rows = Clock(), 0, table()
    reader = RawPcapReader(path)
    with clock:
        if how == "packets":
            for data, _metadata in reader:
                size += len(data)
        else:
            for data, _metadata in reader:
                protocol, port = protocol_and_port(data)
                rows[protocol][port] += 1
    report(clock, size=size, counted=counted(rows))


main()
