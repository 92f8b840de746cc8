"""The whole path of a packet: veth, AF_XDP, poller, ring, worker."""

from support import assert_books, eventually, udp

import fal


def test_packets_arrive_as_sent(make_veth, start_poller):
    veth = make_veth()
    poller = start_poller(veth.device, namespace=veth.inside)
    sent = [udp(("10.0.0.1", 1000 + i), ("10.0.0.2", 53), bytes([i])) for i in range(100)]
    got = []
    with fal.open(poller.device, group=42, fanout="hash", timeout=5) as s:
        veth.send(*sent)
        for _, data in s:
            got.append(data)
            if len(got) == 100:
                break
        assert got == sent
        s.recv_batch(timeout=0)
        eventually(lambda: poller.group(42)["members"][0]["consumed"] == 100)
        assert_books(poller.stat())
    assert poller.stop() == 0
