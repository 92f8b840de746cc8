"""pypcap: python_pypcap.py FILE packets|counted"""

from __future__ import annotations

import sys

import pcap
from python_work import Clock, counted, protocol_and_port, report, table


def main() -> None:
    path, how = sys.argv[1:]
    clock, size, rows = Clock(), 0, table()
    reader = pcap.pcap(path)
    with clock:
        if how == "packets":
            for _ts, data in reader:
                size += len(data)
        else:
            for _ts, data in reader:
                protocol, port = protocol_and_port(data)
                rows[protocol][port] += 1
    report(clock, size=size, counted=counted(rows))


main()
