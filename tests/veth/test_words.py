"""Groups by other words than `hash`: each hashes for itself what it was asked for."""

import errno
from collections import Counter

import pytest
from support import assert_books, eventually, quiet, received, send_slowly, udp
from unit import reference_hash as reference

import fal

CASES = reference.cases()
UNPARSED = ["ARP", "16 tags: by MACs", "MPLS, neither: by MACs", "IPv4, header cut"]


@pytest.fixture
def sort_out(make_veth, start_poller):
    """Send frames to a group by `word`; return the member and the hash of each one, and the report.

    The descriptors of that group, and of one by `hash` beside it, must have the right hash each.
    """
    veth = make_veth()
    poller = start_poller(veth.device, namespace=veth.inside)

    def sort_out(word, *frames):
        with fal.open(poller.device) as witness:
            group = [fal.open(poller.device, group=1, fanout=word, ring=256) for _ in range(16)]
            beside = fal.open(poller.device, group=2, fanout="hash")
            for frame in frames:  # one after the other: in this order
                send_slowly(veth, [frame], witness)
            got = [(frame, i, d["hash"]) for i, s in enumerate(group) for d, frame in received(s)]
            assert Counter(frame for frame, _, _ in got) == Counter(frames)
            assert "defrag" in word or all(h == fal.flow_hash(frame, word) for frame, _, h in got)
            assert all(d["hash"] == fal.flow_hash(frame) for d, frame in received(beside))
            received(witness)
            report = eventually(lambda: quiet(poller))
            assert_books(report)
            assert report["groups"][0]["mode"] == word
            for s in (*group, beside):
                s.close()
        member, value = ({g[0]: g[k] for g in got} for k in (1, 2))
        return [member[frame] for frame in frames], [value[frame] for frame in frames], report

    return sort_out


def test_all_that_is_carried_meets_the_flow(sort_out):
    carried = {**reference.tunnels(False), **reference.tunnels(True), **reference.quoted()}
    names = ["IPv4 TCP", *(name for name in carried if "IPv6 UDP" not in name)]
    where, _, _ = sort_out("hash+inner+icmp", *(CASES[name] for name in names))
    assert len(set(where)) == 1


def test_by_vlan(sort_out):
    frames = [
        reference.ether(reference.IPV4, reference.ipv4(source=port), reference.tag(0x8100, vlan))
        for vlan in range(1, 40)
        for port in (1, 2)
    ]
    where, _, _ = sort_out("steer_vlan", *frames)
    assert where[::2] == where[1::2]
    assert len(set(where)) > 8


@pytest.mark.parametrize("version", ["IPv4", "IPv6"])
def test_fragments(sort_out, version):
    whole, first, later = (
        CASES[f"{version} UDP{part}"] for part in ("", ", first fragment", ", later fragment")
    )
    _, values, _ = sort_out("hash", whole, first, later)
    assert values[0] != values[1] == values[2]
    where, values, report = sort_out("hash+defrag", whole, first, later)
    assert len(set(where)) == 1
    assert set(values) == {fal.flow_hash(whole)}
    assert report["defrag_evicted"] == 0


def test_fragments_out_of_order(sort_out):
    first, later = (CASES[f"IPv4 UDP, {part} fragment"] for part in ("first", "later"))
    where, values, _ = sort_out("hash+defrag", later, first)
    assert len(set(where)) == 1
    assert set(values) == {fal.flow_hash(later)}


def test_unparsed_packets_are_counted(sort_out):
    _, _, report = sort_out("hash", CASES["IPv4 TCP"], *(CASES[name] for name in UNPARSED))
    assert report["unparsed"] == len(UNPARSED)


def test_qm_goes_by_the_queue(make_veth, start_poller):
    veth = make_veth(queues=4)
    poller = start_poller(veth.device, "--mode", "native", namespace=veth.inside)
    frames = [udp(("10.0.0.1", 1 + i), ("10.0.0.2", 9)) for i in range(100)]
    with fal.open(poller.device) as witness:
        group = [fal.open(poller.device, group=1, fanout="qm", ring=256) for _ in range(3)]
        send_slowly(veth, frames, witness)
        got = [received(s) for s in group]
        assert sum(map(len, got)) == len(frames)
        assert all(d["queue"] % 3 == i for i, packets in enumerate(got) for d, _ in packets)
        for s in group:
            s.close()


def test_a_group_has_one_word(make_veth, start_poller):
    veth = make_veth()
    poller = start_poller(veth.device, namespace=veth.inside)
    with fal.open(poller.device, group=1, fanout="Inner_Flow|icmp"):
        fal.open(poller.device, group=1, fanout="flow+ICMP+inner").close()
        fal.open(poller.device, group=1).close()
        with pytest.raises(
            fal.FalError, match=r"group 1 has mode flow\+inner\+icmp, not flow\+inner "
        ) as e:
            fal.open(poller.device, group=1, fanout="inner_flow")
        assert e.value.errno == errno.EINVAL
        with pytest.raises(fal.FalError, match="'ebpf' is not supported") as e:
            fal.open(poller.device, group=2, fanout="ebpf")
        assert e.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize(
    "served", [("generic", 1, 1), ("native", 4, 2), ("tpacket", 2, 2)], indirect=True
)
def test_every_mode_and_flag_over_every_source(served):
    """Groups of all words at once: each has every packet once, and shares it as its word says."""
    veth, poller = served
    words = ("hash", "lb", "rnd", "rollover", "qm", "cpu", "cbpf", "hash+rollover", "lb+defrag")
    words += ("hash+inner+icmp", "flow_2_tuple", "steer_link")
    frames = [udp(("10.0.0.1", 1000 + i % 50), ("10.0.0.2", 53), bytes([i])) for i in range(200)]
    last = [(0x30, 0, 0, 42), (0x16, 0, 0, 0)]  # ldb [42]; ret a
    with fal.open(poller.device) as witness:
        groups = {}
        for i, word in enumerate(words):
            how = {"fanout": word, "program": last if word == "cbpf" else None, "ring": 512}
            groups[word] = [fal.open(poller.device, group=i, **how) for _ in range(2)]
        send_slowly(veth, frames, witness)
        got = {word: [received(s) for s in sockets] for word, sockets in groups.items()}
        received(witness)
        assert_books(eventually(lambda: quiet(poller)))
        for sockets in groups.values():
            for s in sockets:
                s.close()
    for word, members in got.items():
        shares = [[data for _, data in mine] for mine in members]
        assert Counter(shares[0] + shares[1]) == Counter(frames), word
        if word.startswith(("hash", "flow")):
            assert not {f[34:36] for f in shares[0]} & {f[34:36] for f in shares[1]}, word
    assert [{f[42] % 2 for f in (d for _, d in mine)} for mine in got["cbpf"]] == [{0}, {1}]
    assert all(d["queue"] % 2 == i for i, mine in enumerate(got["qm"]) for d, _ in mine)
    assert not got["rollover"][1]  # the first is never full
