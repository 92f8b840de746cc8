"""What comes from outside, made up by libFuzzer under ASan and UBSan: frames, messages, words.

Five seconds each, a minute in the long form; it begins with the corpus of odd packets.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import packets
import pytest
from support import side_by_side

from fal.bindings import ffi, lib

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "fal" / "native"
COMPILE = ["clang-14", "-g", "-O1", "-D_GNU_SOURCE", "-fsanitize=fuzzer,address,undefined"]


def frames() -> Iterator[bytes]:
    for fields in (lib.FAL_HASH_FLOW, lib.FAL_HASH_FLOW | lib.FAL_HASH_INNER | lib.FAL_HASH_ICMP):
        for frame in packets.frames().values():
            yield bytes(8) + bytes([fields]) + frame


def replies() -> Iterator[bytes]:
    for code in (0, 22):
        reply = ffi.new("struct fal_reply *", {"type": lib.FAL_OPEN, "code": code, "pollers": 1})
        for descriptors in (0, 4, 35, 36, 64):
            yield bytes([descriptors, 0]) + bytes(ffi.buffer(reply))
        yield bytes([4, 127]) + bytes(ffi.buffer(reply))  # a byte is missing


def pieces() -> Iterator[bytes]:
    for flags in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1]):
        yield b"".join(bytes([1, 2, flag, 3, 4, 1]) for flag in flags)


def programs() -> Iterator[bytes]:
    ip = [(0x28, 0, 0, 12), (0x15, 0, 1, 0x800), (6, 0, 0, 65535), (6, 0, 0, 0)]
    odd = [(0x30, 0, 0, 23), (0xB1, 0, 0, 14), (0x48, 0, 0, 16), (2, 0, 0, 1), (0x61, 0, 0, 1)]
    odd += [(code, 0, 0, 0) for code in (0x1C, 0x6C, 0x3C, 0x87, 0x16)]
    for program in (ip, odd):
        words = b"".join(struct.pack("<HBBI", *i) for i in program)
        yield bytes([len(program)]) + words + bytes(range(64))


def configurations() -> Iterator[bytes]:
    words = "group def_group group_eth0 fanout fanout@1 filter filter@1 caplen rx_slots pfq_vlan@1"
    file = "".join(f"{word} = 1\n" for word in words.split())
    nics = "rx_channels@eth0 = 2\r\nirq@eth0.1 = 0, 2-4\n"
    variables = b"PCAP_GROUP=1\0PCAP_GROUP_eth0_1=2\0PCAP_FANOUT=lb\0PCAP_IRQ_eth0_1=3\0"
    for begin in (b"\0", bytes([4]) + variables):
        yield begin + file.encode()
        yield begin + f"# all\n{nics}> main = do\n>     tcp\ngroup = 2\n".encode()
        yield begin + b"group = 1\nfanout = hash+defrag\ncaplen=96"
    yield bytes([3]) + b"PCAP_DRIVER=fal\0PCAP_CAPLEN=64\0PCAP_CHANNEL_eth0=4\0" + nics.encode()


def names() -> Iterator[bytes]:
    for driver in range(7):
        for name in ("fal:eth0^eth1:1", "tpacket:eth0", "lo:1", "nflog:5", "zc:99@0", "pfq:a^b^c"):
            yield bytes([driver]) + name.encode()


# What is fuzzed: the sources that it needs, and what it begins with.
TARGETS: dict[str, tuple[list[str], Callable[[], Iterator[bytes]]]] = {
    "fuzz_flow": (["flow.c"], frames),
    "fuzz_defrag": (["defrag.c"], pieces),
    "fuzz_bpf": (["bpf.c", "error.c"], programs),
    "fuzz_control": (["control.c", "error.c"], replies),
    "fuzz_config": (["pcap/config.c", "pcap/names.c", "modes.c", "error.c"], configurations),
    "fuzz_names": (["pcap/names.c", "error.c"], names),
}


def fuzz(case: tuple[str, int], directory: Path) -> None:
    name, seconds = case
    sources, seeds = TARGETS[name]
    program, corpus = directory / name, directory / "corpus"
    corpus.mkdir()
    for i, seed in enumerate(seeds()):
        (corpus / str(i)).write_bytes(seed)
    source = [HERE / f"{name}.c", *(NATIVE / s for s in sources)]
    strict = ["-fno-sanitize-recover=all", f"-I{NATIVE}"]
    subprocess.run([*COMPILE, *strict, *source, "-o", program], check=True)
    limits = [f"-max_total_time={seconds}", "-timeout=10", "-max_len=4096"]
    done = subprocess.run(
        [program, *limits, f"-artifact_prefix={directory}/", corpus],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + 60,
    )
    assert done.returncode == 0, done.stderr[-5000:]


def test_every_target_is_run():
    assert sorted(TARGETS) == sorted(path.stem for path in HERE.glob("fuzz_*.c"))


FIVE_SECONDS = [(name, 5) for name in TARGETS]
A_MINUTE = [pytest.param((name, 60), marks=pytest.mark.long) for name in TARGETS]


@pytest.fixture(scope="module")
def fuzzed(request):
    with side_by_side(request, fuzz) as result:
        yield result


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "case", [*FIVE_SECONDS, *A_MINUTE], ids=lambda case: f"{case[0]}-{case[1]}"
)
def test_fuzz(fuzzed, case):
    fuzzed(case)
