# SPDX-License-Identifier: BSD-3-Clause
"""What a pcap program calls a device: which engine and devices that is, and what is refused."""

import errno
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fal
from fal.bindings import ffi, lib
from fal.errors import checked

FAL, TPACKET, KERNEL = lib.FAL_PCAP_FAL, lib.FAL_PCAP_TPACKET, lib.FAL_PCAP_KERNEL
PFRING, ZC, PFQ = lib.FAL_PCAP_PFRING, lib.FAL_PCAP_ZC, lib.FAL_PCAP_PFQ


def word(native):
    return ffi.string(native).decode()


def name(text, driver=""):
    err, out = ffi.new("struct fal_error *"), ffi.new("struct fal_pcap_name *")
    native = ffi.NULL if text is None else os.fsencode(text)
    checked(lib.fal_pcap_name_parse(native, driver.encode(), out, err), err)
    return out.engine, [(word(d.name), word(d.key)) for d in out.device[0 : out.devices]]


@pytest.mark.parametrize(
    ("text", "engine", "devices"),
    [
        ("fal:eth0", FAL, ["eth0"]),
        ("fal:eth0^eth1^lan-2", FAL, ["eth0", "eth1", "lan-2"]),
        ("fal:eth0:1^eth0:23", FAL, [("eth0", "eth0:1"), ("eth0", "eth0:23")]),
        ("fal:a:b", FAL, ["a:b"]),
        ("fal:a:b:3", FAL, [("a:b", "a:b:3")]),
        ("fal:a:", FAL, ["a:"]),
        ("fal:a1", FAL, ["a1"]),
        ("fal:5", FAL, ["5"]),
        ("fal::5", FAL, [":5"]),
        ("fal:" + "^".join("abcdefgh"), FAL, list("abcdefgh")),
        ("tpacket:eth0", TPACKET, ["eth0"]),
        ("tpacket:eth0:1", TPACKET, [("eth0", "eth0:1")]),
        ("tpacket:a^b", TPACKET, ["a^b"]),  # one name, as the kernel's sockets have one device
        ("pfring:eth3", PFRING, ["eth3"]),
        ("pfring:eth3@1,2", PFRING, ["eth3@1,2"]),
        ("zc:99@0", ZC, ["zc:99@0"]),
        ("zc:eth0:1", ZC, ["zc:eth0:1"]),
        ("pfq:eth0^eth1", PFQ, ["eth0", "eth1"]),
        ("pfq:any", PFQ, ["any"]),
        (None, KERNEL, ["any"]),
        ("", KERNEL, [""]),
        ("any", KERNEL, ["any"]),
        ("eth0", KERNEL, ["eth0"]),
        ("eth0.5", KERNEL, ["eth0.5"]),
        ("nflog:5", KERNEL, ["nflog:5"]),
        ("nfqueue:0", KERNEL, ["nfqueue:0"]),
        ("mlx5_0:1", KERNEL, ["mlx5_0:1"]),
        ("usbmon1", KERNEL, ["usbmon1"]),
        ("bluetooth0", KERNEL, ["bluetooth0"]),
        ("dbus-system", KERNEL, ["dbus-system"]),
        ("a^b", KERNEL, ["a^b"]),
        ("fal", KERNEL, ["fal"]),
        ("FAL:eth0", KERNEL, ["FAL:eth0"]),
        ("falx:eth0", KERNEL, ["falx:eth0"]),
        ("fa:eth0", KERNEL, ["fa:eth0"]),
        (":eth0", KERNEL, [":eth0"]),
        ("lo:1", KERNEL, [("lo", "lo:1")]),  # a network interface that there is
        ("lo:12", KERNEL, [("lo", "lo:12")]),
        ("lo:", KERNEL, ["lo:"]),
        ("lo:x1", KERNEL, ["lo:x1"]),
        ("lo", KERNEL, ["lo"]),
        ("x" * 255, KERNEL, ["x" * 255]),
    ],
)
def test_names(text, engine, devices):
    assert name(text) == (engine, [d if isinstance(d, tuple) else (d, d) for d in devices])


@pytest.mark.parametrize(
    ("driver", "text", "engine", "devices"),
    [
        ("fal", "eth0", FAL, ["eth0"]),
        ("fal", "eth0^eth1", FAL, ["eth0", "eth1"]),
        ("fal", None, FAL, ["any"]),
        ("tpacket", "eth0", TPACKET, ["eth0"]),
        ("pfq", "eth0", PFQ, ["eth0"]),
        ("pfring", "eth0", PFRING, ["eth0"]),
        ("pfq", "fal:eth0", FAL, ["eth0"]),
        ("fal", "tpacket:eth0", TPACKET, ["eth0"]),
        ("tpacket", "fal:eth0^eth1", FAL, ["eth0", "eth1"]),
    ],
)
def test_names_with_a_driver(driver, text, engine, devices):
    assert name(text, driver) == (engine, [(d, d) for d in devices])
    virtual = ("eth0", "eth0:1")
    assert name("eth0:1", driver) == (lib.fal_pcap_engine_of(driver.encode()), [virtual])


@pytest.mark.parametrize(
    ("text", "driver", "code", "message"),
    [
        ("fal:", "", errno.EINVAL, "device 'fal:': the name of a device is empty"),
        ("fal:a^", "", errno.EINVAL, "device 'fal:a^': the name of a device is empty"),
        ("fal:^a", "", errno.EINVAL, "device 'fal:^a': the name"),
        ("fal:a^^b", "", errno.EINVAL, "device 'fal:a^^b': the name"),
        ("tpacket:", "", errno.EINVAL, "device 'tpacket:': the name"),
        ("", "fal", errno.EINVAL, "device '': the name"),
        ("fal:" + "^".join("abcdefghi"), "", errno.EINVAL, "…': a handle has at most 8 devices"),
        ("x" * 256, "", errno.ENAMETOOLONG, f"device '{'x' * 80}…': a name has at most 255 bytes"),
        ("fal:a^" + "x" * 256, "", errno.ENAMETOOLONG, f"device 'fal:a^{'x' * 74}…': a name has"),
        ("eth0", "nonsense", errno.EINVAL, "there is no engine 'nonsense'"),
    ],
)
def test_names_that_are_refused(text, driver, code, message):
    with pytest.raises(fal.FalError) as e:
        name(text, driver)
    assert e.value.errno == code
    assert message in e.value.strerror


def test_engines_that_are_missing_say_what_of_them_is():
    err = ffi.new("struct fal_error *")
    for engine in (FAL, TPACKET, KERNEL):
        assert lib.fal_pcap_engine_check(engine, err) == 0
    for engine, what in ((PFRING, "libpfring"), (ZC, "PF_RING ZC"), (PFQ, "libpfq")):
        assert lib.fal_pcap_engine_check(engine, err) == -1
        assert err.code == errno.EOPNOTSUPP
        assert what in word(err.text)


DEVICE = st.text("abz019_-.@:+", min_size=1, max_size=15)


@given(st.sampled_from(["fal:", "pfq:"]), st.lists(DEVICE, min_size=1, max_size=8))
def test_names_of_several(prefix, devices):
    _, found = name(prefix + "^".join(devices))
    assert [key for _, key in found] == devices
    for opened, key in found:
        virtual = re.fullmatch(r"(.+):[0-9]+", key)
        assert opened == (virtual[1] if virtual else key)
