"""Classic BPF: expressions compiled by libpcap, and our interpreter against libpcap's."""

import ctypes
import errno
import random
import subprocess
import sys
import textwrap

import pytest
from support import udp

import fal
from fal import bpf, libpcap
from fal.bindings import ffi, lib
from fal.errors import checked
from fal.frames import tcp

ALU = [0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x90, 0xA0]
JUMPS = [0x10, 0x20, 0x30, 0x40]
DIVIDES, SHIFTS = (0x30, 0x90), (0x60, 0x70)

# what users write: (expression, packets that match, packets that do not)
SSH = tcp(("10.0.0.1", 22), ("10.0.0.2", 40000))
DNS = udp(("10.0.0.1", 5353), ("10.0.0.2", 53))
DNS6 = udp(("2001:db8::1", 5353), ("2001:db8::2", 53))
TAGGED = udp(("10.0.0.1", 5353), ("10.0.0.2", 53), vlan=7)
ARP = b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x08\x06" + bytes(46)
EXPRESSIONS = [
    ("", [SSH, DNS, ARP], []),
    ("arp or icmp or port 22", [ARP, SSH], [DNS, DNS6, TAGGED]),
    ("udp port 53", [DNS, DNS6], [SSH, ARP, TAGGED]),
    ("vlan 7 and udp port 53", [TAGGED], [DNS, ARP]),
    ("ip6", [DNS6], [DNS, ARP]),
    ("net 10.0.0.0/30 and not tcp", [DNS], [SSH, DNS6]),
    ("ip[0] & 0xf = 5 and udp[2:2] = 53", [DNS], [SSH, DNS6]),
    ("len <= 60", [SSH, DNS, ARP], [DNS6]),
    ("ether[6] = 2 and ether broadcast", [ARP], [DNS]),
]


def check(instructions):
    err = ffi.new("struct fal_error *")
    checked(lib.fal_bpf_check(instructions, len(instructions), err), err)


def verdict(program, packet, length=None):
    instructions = bpf.native(program)
    check(instructions)
    return lib.fal_bpf_run(instructions, packet, length or len(packet), len(packet))


def refused(text):
    return pytest.raises(fal.FalError, match=text, check=lambda e: e.errno == errno.EINVAL)


@pytest.mark.parametrize(("expression", "yes", "no"), EXPRESSIONS)
def test_expressions(expression, yes, no):
    program = bpf.compile(expression)
    assert [verdict(program, packet) for packet in yes] == [bpf.SNAPLEN] * len(yes)
    assert [verdict(program, packet) for packet in no] == [0] * len(no)


def test_an_expression_that_is_none_is_refused_in_one_line():
    for bad, why in [
        ("port", "syntax error"),
        ("port 70000", "illegal port number"),
        ("ip and arp", "rejects all packets"),
        ("ip protochain 6", "jumps out of the program, or backwards"),  # a loop
        ("foo bar\nbaz", "error"),
    ]:
        with refused(why) as caught:
            bpf.compile(bad)
        assert "\n" not in str(caught.value).replace(bad, "")
    with refused("NUL"):
        bpf.compile("ip\0")


def test_a_missing_libpcap_is_said_in_one_line():
    """And nothing but filters asks for it."""
    program = textwrap.dedent("""
        import fal, fal.poller, errno
        from fal import bpf, libpcap
        assert "libpcap" not in open("/proc/self/maps").read()
        libpcap.LIBRARY = "libpcap.so.none"
        try:
            bpf.compile("ip")
        except fal.FalError as e:
            print(e.errno == errno.ELIBACC, e)
    """)
    done = subprocess.run([sys.executable, "-Pc", program], capture_output=True, text=True)
    said = "filters need libpcap.so.none, which is not here: apt-get install libpcap0.8"
    assert (done.stdout, done.stderr) == (f"True {said}\n", "")


def test_what_is_no_program():
    for bad in ([1], [(1, 2, 3)], [(1, 2, 3, 4, 5)], [(70000, 0, 0, 0)], [(6, 0, 0, -1)], 5):
        with refused("a program is a list of"):
            bpf.native(bad)
    with refused("^a BPF program has 1 to 4096 instructions, not 0$"):
        check(bpf.native([]))
    with refused("^BPF program: instruction 1 jumps out of the program, or backwards$"):
        check(bpf.native([(0, 0, 0, 1), (5, 0, 0, 1), (6, 0, 0, 0)]))


# ---- against libpcap's own -----------------------------------------------------------------------


def number(draw):
    return draw.choice([draw.randrange(8), draw.randrange(80), draw.getrandbits(32)])


def instruction(draw, left):
    """Make one that may stand where `left` more follow."""
    k = number(draw)
    kind = draw.randrange(10)
    if kind < 3:  # loads
        code = draw.choice([0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xB1, 0x80, 0x81, 0, 1])
        return (code, 0, 0, k & 0x7FFFFFFF)
    if kind < 5:
        return (draw.choice([0x60, 0x61, 0x02, 0x03]), 0, 0, k % 16)
    if kind < 8:
        op, source = draw.choice(ALU), draw.choice([0, 8])
        if source == 0:
            k = k % 32 if op in SHIFTS else k or 1
        return draw.choice([(4 | op | source, 0, 0, k), (0x84, 0, 0, 0)])
    if kind < 9:
        return (draw.choice([0x07, 0x87]), 0, 0, 0)
    if draw.random() < 0.2:
        return (0x05, 0, 0, draw.randrange(left))
    code = 5 | draw.choice(JUMPS) | draw.choice([0, 8])
    return (code, draw.randrange(min(left, 256)), draw.randrange(min(left, 256)), k)


def random_program(draw):
    """Memory is written first: what lies there at the start libpcap does not say."""
    body = draw.randrange(1, 60)
    program = [(2, 0, 0, k) for k in range(16)]
    program += [instruction(draw, body - i) for i in range(body)]
    return [*program, draw.choice([(6, 0, 0, number(draw)), (0x16, 0, 0, 0)])]


def test_random_programs_as_libpcap_runs_them():
    theirs = ctypes.CDLL(libpcap.LIBRARY).bpf_filter
    theirs.restype = ctypes.c_uint
    theirs.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint)
    draw = random.Random(1)
    nonzero = 0
    for _ in range(3000):
        program = random_program(draw)
        instructions = bpf.native(program)
        check(instructions)
        for _ in range(6):
            packet = draw.randbytes(draw.choice([0, 1, 7, 20, 64, 100]))
            length = draw.choice([len(packet), 1514])
            ours = lib.fal_bpf_run(instructions, packet, length, len(packet))
            address = int(ffi.cast("uintptr_t", instructions))
            assert ours == theirs(address, packet, length, len(packet)), program
            nonzero += ours != 0
    assert nonzero > 2000  # they do not all end at once


def test_real_expressions_as_libpcap_runs_them():
    theirs = ctypes.CDLL(libpcap.LIBRARY).bpf_filter
    theirs.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint)
    draw = random.Random(2)
    for expression, yes, no in EXPRESSIONS:
        instructions = bpf.native(bpf.compile(expression))
        address = int(ffi.cast("uintptr_t", instructions))
        for packet in (yes + no) * 20:
            spoilt = bytearray(packet[: draw.randrange(len(packet) + 1)])
            for _ in range(draw.randrange(3) if spoilt else 0):
                spoilt[draw.randrange(len(spoilt))] = draw.getrandbits(8)
            arguments = bytes(spoilt), len(packet), len(spoilt)
            assert lib.fal_bpf_run(instructions, *arguments) == theirs(address, *arguments)
