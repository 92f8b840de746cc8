# SPDX-License-Identifier: BSD-3-Clause
"""The words for a fan-out: what they come to, how they are written, what is refused."""

import errno
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import fal
from fal import modes
from fal.bindings import lib

KERNEL = ["hash", "lb", "cpu", "rollover", "rnd", "qm", "cbpf"]  # by PACKET_FANOUT_*
FLAGS = ["defrag", "rollover", "inner", "icmp"]
WORDS = [word for word, native, _ in modes.words(lib.fal_mode_word) if native.mode < 7]
DOCS = Path(__file__).parents[2] / "docs" / "fanout.md"


def test_numbers_are_the_kernels() -> None:
    assert [modes.parse(word).mode for word in KERNEL] == list(range(7))
    assert lib.FAL_FANOUT_ROLLOVER == 0x1000
    assert lib.FAL_FANOUT_DEFRAG == 0x8000
    assert modes.parse("cpu|defrag").flags == lib.FAL_FANOUT_DEFRAG


def test_the_table_is_in_the_documentation() -> None:
    printed = subprocess.run(
        [Path(sys.executable).with_name("fal"), "modes"], capture_output=True, text=True, check=True
    ).stdout
    assert printed == modes.table() + "\n"
    assert f"```text\n{printed}```\n" in DOCS.read_text()


@pytest.mark.parametrize("word", WORDS)
def test_every_word_with_every_flag(word: str) -> None:
    """In any order and case and by either sign: the same; written in one way, that is read back."""
    for n in range(len(FLAGS) + 1):
        for flags in itertools.permutations(FLAGS, n):
            text = "+".join((word, *flags))
            if ("rollover" in flags and word == "rollover") or (
                "inner" in flags and "inner" in word
            ):
                with pytest.raises(fal.FalError, match="is said twice") as e:
                    modes.parse(text)
                assert e.value.errno == errno.EINVAL
                continue
            fanout = modes.parse(text)
            assert fanout == modes.parse("|".join((word.title(), *sorted(flags))).upper())
            assert modes.parse(str(fanout)) == fanout
            assert str(modes.parse(str(fanout))) == str(fanout)
            plain = modes.parse(word)
            assert fanout.mode == plain.mode
            assert (fanout.hash == plain.hash) == (not {"inner", "icmp"} & set(flags))


def test_what_is_equal_reads_the_same() -> None:
    every = [modes.parse("+".join((w, *f))) for w in WORDS for n in range(3)
             for f in itertools.combinations(["defrag", "icmp"], n)]  # fmt: skip
    assert len({str(fanout) for fanout in every}) == len(set(every))
    for text, same in {
        "hash": ("flow_5_tuple", "steer_flow", "HASH"),
        "lb": ("round_robin", "steer_rrobin"),
        "flow_2_tuple": ("steer_ip", "Flow_2_Tuple"),
        "flow+inner": ("inner_flow", "flow|inner"),
        "hash+inner+icmp": ("inner_flow_5_tuple+icmp", "hash|icmp|inner"),
    }.items():
        assert {str(modes.parse(word)) for word in same} == {text}


@pytest.mark.parametrize("text", ["", "h", "has", "hashh", " hash", "hash ", "lb,lb", "0", "hÁsh"])
def test_unknown_modes(text: str) -> None:
    with pytest.raises(fal.FalError, match=f"unknown fan-out mode '{text}'.*see `fal modes`") as e:
        modes.parse(text)
    assert e.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("text", "flag"), [("hash+", ""), ("lb|x", "x"), ("hash++icmp", ""), ("qm+icmp+hash", "hash")]
)
def test_unknown_flags(text: str, flag: str) -> None:
    with pytest.raises(fal.FalError, match=rf"unknown fan-out flag '{flag}' \(known: def") as e:
        modes.parse(text)
    assert e.value.errno == errno.EINVAL


def test_said_twice() -> None:
    for text in ("hash+icmp+icmp", "lb+DEFRAG|defrag", "inner_flow+inner", "rollover+rollover"):
        with pytest.raises(fal.FalError, match="is said twice"):
            modes.parse(text)


@pytest.mark.parametrize("word", ["data", "ebpf", "EBPF+defrag"])
def test_not_supported(word: str) -> None:
    with pytest.raises(fal.FalError, match=r"is not supported: .*see cbpf") as e:
        modes.parse(word)
    assert e.value.errno == errno.EOPNOTSUPP


def test_a_long_word_is_cut() -> None:
    with pytest.raises(fal.FalError, match=f"mode '{'x' * 40}' "):
        modes.parse("x" * 1000)
