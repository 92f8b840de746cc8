# SPDX-License-Identifier: BSD-3-Clause
"""The pcap library's file and environment: what they come to, and what is refused."""

import itertools
import os
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import run

import fal
from fal import pcapconf
from fal.bindings import ffi, lib
from fal.errors import checked

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "fal" / "native"
CONFIG_C = NATIVE / "pcap" / "config.c"
FAL, TPACKET, KERNEL = lib.FAL_PCAP_FAL, lib.FAL_PCAP_TPACKET, lib.FAL_PCAP_KERNEL
PFRING, ZC, PFQ = lib.FAL_PCAP_PFRING, lib.FAL_PCAP_ZC, lib.FAL_PCAP_PFQ
ENGINES = (FAL, TPACKET, KERNEL, PFRING, ZC, PFQ)
NOT_PFQ = ENGINES[:-1]
NONE = {"group": -1, "fanout": "", "filter": "", "caplen": 0, "ring": 0}
PFQ_WORDS = ["tx_slots", "tx_sync", "tx_hw_queue", "tx_idx_thread", "vlan"]


def word(native):
    return ffi.string(native).decode()


class Config:
    """One reading of file and environment."""

    def __init__(self):
        self.err = ffi.new("struct fal_error *")
        config = checked(lib.fal_pcap_config_read(self.err), self.err)
        self.config = ffi.gc(config, lib.fal_pcap_config_free)

    def ask(self, device="eth0", engine=FAL):
        out = ffi.new("struct fal_pcap_settings *")
        result = lib.fal_pcap_config_for(self.config, device.encode(), engine, out, self.err)
        checked(result, self.err)
        return self.told(out)

    def ask_group(self, group, engine=FAL):
        out = ffi.new("struct fal_pcap_settings *")
        checked(lib.fal_pcap_config_group(self.config, group, engine, out, self.err), self.err)
        return self.told(out)

    @staticmethod
    def told(out):
        text = {"fanout": word(out.fanout), "filter": word(out.filter)}
        return {"group": out.group, "caplen": out.caplen, "ring": out.ring} | text

    def all(self, key):
        i, found = 0, []
        while s := lib.fal_pcap_config_setting(self.config, i):
            if s.key == key:
                found.append((word(s.device), s.index, word(s.value)))
            i += 1
        return found


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Nothing but what a test says; also no file that this machine may have."""
    for name in [name for name in os.environ if name.startswith("PCAP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PCAP_CONFIG", "/dev/null")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Give a function that writes the file, and sets variables."""

    def write(content="", **variables):
        path = tmp_path / "pcap.conf"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        monkeypatch.setenv("PCAP_CONFIG", str(path))
        for name, value in variables.items():
            monkeypatch.setenv(f"PCAP_{name}", value)
        return str(path)

    return write


def ask(device="eth0", engine=FAL):
    return Config().ask(device, engine)


def refusal(call, *arguments):
    with pytest.raises(fal.FalError) as e:
        call(*arguments)
    assert "\n" not in e.value.strerror
    return e.value.strerror


# ---- the paper's examples ------------------------------------------------------------------------


def test_paper_fanout_of_groups(write):
    write("group_eth0 = 2\ngroup_eth3 = 3\nfanout@2 = hash\nfanout@3 = rnd\n")
    for engine in ENGINES:
        assert ask("eth0", engine) == NONE | {"group": 2, "fanout": "hash"}
        assert ask("eth3", engine) == NONE | {"group": 3, "fanout": "rnd"}
        assert ask("eth1", engine) == NONE


def test_paper_environment_alone(write):
    write("fanout = hash\ndef_group = 7", FANOUT="rnd", GROUP="3")
    assert ask() == NONE | {"group": 3, "fanout": "rnd"}


def test_paper_pfq_flavor(write):
    path = write(
        "# Pcap configuration file (PFQ flavor)\ndef_group = 11\ncaplen = 64\nrx_slots = 131072\n"
        "> main = do\n>     tcp\n>     steer_flow\n"
    )
    text = " main = do\n     tcp\n     steer_flow\n"
    assert ask("eth0", PFQ) == NONE | {"group": 11, "caplen": 64, "ring": 131072, "fanout": text}
    for engine in NOT_PFQ:
        assert refusal(ask, "eth0", engine).startswith(f"{path}:5:1: only PFQ understands PFQ-Lang")


def test_paper_groups_of_devices(write):
    write(DEF_GROUP="42", GROUP_eth0="11")
    assert ask("eth0") == NONE | {"group": 11}
    assert ask("eth1") == NONE | {"group": 42}


def test_paper_virtual_devices(write):
    write("group_eth0 = 11\ngroup_eth0:1 = 23\n")
    assert [ask(key)["group"] for key in ("eth0", "eth0:1", "eth0:2")] == [11, 23, -1]


def test_paper_channels_and_irqs(write):
    write("combined_channels@eth0 = 2\nirq@eth0.0 = 0\nirq@eth0.1 = 1\n")
    config = Config()
    assert config.all(lib.FAL_PCAP_COMBINED_CHANNELS) == [("eth0", -1, "2")]
    assert config.all(lib.FAL_PCAP_IRQ) == [("eth0", 0, "0"), ("eth0", 1, "1")]


# ---- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "come_to"),
    [
        ("group = 5", {"group": 5}),
        ("def_group = 5", {"group": 5}),
        ("DEF_Group=0", {"group": 0}),
        ("Group_eth0 = 65535", {"group": 65535}),
        ("GROUP_ETH0 = 5", {}),  # devices have their case
        ("\t caplen\t=  96 \t", {"caplen": 96}),
        ("caplen = 262144", {"caplen": 262144}),
        ("rx_slots = 64", {"ring": 64}),
        ("PFQ_rx_slots = 1048576", {"ring": 1048576}),
        ("group = 7\nFANOUT = LB+defrag", {"group": 7, "fanout": "LB+defrag"}),
        ("group = 7\nFANOUT@7 = LB|defrag", {"group": 7, "fanout": "LB|defrag"}),
        ("group = 7\nfanout@07 = lb", {"group": 7, "fanout": "lb"}),
        ("group = 7\nfilter = tcp[13] = 2", {"group": 7, "filter": "tcp[13] = 2"}),
        ("group = 7\nFilter@7 = net 10/8 # 1", {"group": 7, "filter": "net 10/8 # 1"}),
        ("fanout@7 = nonsense", {}),  # of a group that nobody is in
        ("filter@7 = nonsense", {}),
        ("pfq_vlan@7 = 5", {}),
    ],
)
def test_words_of_the_file(write, line, come_to):
    write(line)
    assert ask() == NONE | come_to


@pytest.mark.parametrize("key", ["rx", "tx", "combined", "other"])
def test_channels_of_the_file(write, key):
    write(f"{key.upper()}_channels@my-if.0 = 3")
    number = getattr(lib, f"FAL_PCAP_{key.upper()}_CHANNELS")
    assert Config().all(number) == [("my-if.0", -1, "3")]


@pytest.mark.parametrize(
    ("written", "read"), [("0", "0"), ("0, 2-4\t,  7", "0,2-4,7"), ("8191", "8191")]
)
def test_irq_lists(write, written, read):
    write(f"irq@eth0.5.12 = {written}", IRQ_eth1_3=f" {written} ")
    assert Config().all(lib.FAL_PCAP_IRQ) == [("eth1", 3, read), ("eth0.5", 12, read)]


def test_variables_replace_channels_and_irqs(write):
    lines = "rx_channels@eth0 = 1\ntx_channels@eth0 = 1\ncombined_channels@eth0 = 1\n"
    write(lines + "rx_channels@eth1 = 1\nirq@eth0.0 = 1\nirq@eth0.1 = 1\n", CHANNEL_eth0="4")
    write(lines + "rx_channels@eth1 = 1\nirq@eth0.0 = 1\nirq@eth0.1 = 1\n", IRQ_eth0_1="2-3")
    config = Config()
    assert config.all(lib.FAL_PCAP_CHANNELS) == [("eth0", -1, "4")]
    assert config.all(lib.FAL_PCAP_RX_CHANNELS) == [("eth1", -1, "1")]
    assert config.all(lib.FAL_PCAP_COMBINED_CHANNELS) == []
    assert config.all(lib.FAL_PCAP_TX_CHANNELS) == [("eth0", -1, "1")]
    assert config.all(lib.FAL_PCAP_IRQ) == [("eth0", 1, "2-3"), ("eth0", 0, "1")]


@pytest.mark.parametrize(
    ("device", "variables"),
    [
        ("my_if0", ["my_if0"]),
        ("eth0:1", ["eth0_1", "eth0:1"]),
        ("br-3f.7@x+", ["br_3f_7_x_", "br-3f.7@x+"]),
        ("enp3s0f1", ["enp3s0f1"]),
    ],
)
def test_variables_name_devices_with_punctuation_folded(write, device, variables):
    for i, name in enumerate(variables):
        write(f"group_{device} = 60\n", **{f"GROUP_{name}": str(i)})
        assert ask(device)["group"] == i  # the exact name goes before the other
        assert ask(f"{device}0")["group"] == ask(device[:-1])["group"] == -1
    assert ask(device.upper())["group"] == -1


def test_punctuation_of_a_variable_stands_for_itself(write):
    write(**{"GROUP_a:b": "1"})
    assert [ask(name)["group"] for name in ("a:b", "a.b", "a_b", "a1b")] == [1, -1, -1, -1]
    write(GROUP_c_d="2")
    assert [ask(name)["group"] for name in ("c:d", "c.d", "c_d", "c1d")] == [2, 2, 2, -1]


def test_the_file_names_devices_exactly(write):
    write("group_eth0_1 = 5\n")
    assert [ask(name)["group"] for name in ("eth0_1", "eth0:1")] == [5, -1]


def test_an_empty_variable_is_none(write, monkeypatch):
    write("group = 5\n", GROUP="", FANOUT=" ", GROUP_eth0="", CAPLEN="", DRIVER="")
    config = Config()
    assert config.ask() == NONE | {"group": 5}
    assert word(lib.fal_pcap_config_driver(config.config)) == ""
    write("", CONFIG="")


@pytest.mark.parametrize("driver", ["fal", "tpacket", "pfring", "zc", "pfq"])
def test_driver(write, driver):
    write(DRIVER=driver)
    config = Config()
    assert word(lib.fal_pcap_config_driver(config.config)) == driver


def test_what_is_read_stays(write, monkeypatch):
    write("caplen = 64", GROUP="5", GROUP_eth1="6", FANOUT="lb", DRIVER="fal")
    config = Config()
    for name in ("GROUP", "GROUP_eth1", "FANOUT", "DRIVER"):
        monkeypatch.setenv(f"PCAP_{name}", "changed")
        monkeypatch.delenv(f"PCAP_{name}")
    write("caplen = 65")
    assert config.ask() == NONE | {"group": 5, "fanout": "lb", "caplen": 64}
    assert config.ask("eth1")["group"] == 6
    assert word(lib.fal_pcap_config_driver(config.config)) == "fal"


# ---- which goes before which ---------------------------------------------------------------------

SOURCES = ["PCAP_GROUP_eth0", "group_eth0", "PCAP_GROUP", "group"]


@pytest.mark.parametrize("given_by", list(itertools.product([False, True], repeat=4)))
@pytest.mark.parametrize("prefix", ["", "DEF_"])
def test_groups(write, monkeypatch, given_by, prefix):
    there = [source for source, is_there in zip(SOURCES, given_by, strict=True) if is_there]
    lines = [f"{prefix.lower() * (s == 'group')}{s} = {SOURCES.index(s)}" for s in there]
    write("\n".join(line for line in lines if not line.startswith("PCAP_")))
    for source in (s for s in there if s.startswith("PCAP_")):
        name = source.replace("GROUP", f"{prefix}GROUP") if source == "PCAP_GROUP" else source
        monkeypatch.setenv(name, str(SOURCES.index(source)))
    assert ask("eth0")["group"] == (SOURCES.index(there[0]) if there else -1)
    of_all = [s for s in there if not s.endswith("eth0")]
    assert ask("eth1")["group"] == (SOURCES.index(of_all[0]) if of_all else -1)


def test_pcap_fanout_is_of_the_process_group_alone(write):
    text = "group = 1\ngroup_eth2 = 2\ngroup_eth3 = 3\nfanout@2 = lb\nfanout@1 = cpu\n"
    write(text, FANOUT="rnd")
    assert [ask(d)["fanout"] for d in ("eth0", "eth2", "eth3")] == ["rnd", "lb", ""]
    write(text, GROUP="2")  # eth0 is in 2 now, which is the process's
    assert [ask(d)["fanout"] for d in ("eth0", "eth2", "eth3")] == ["rnd", "rnd", ""]


def test_without_a_process_group_it_is_of_the_devices(write):
    write("group_eth2 = 2\ngroup_eth3 = 3\nfanout@2 = lb\n", FANOUT="rnd")
    assert [ask(d)["fanout"] for d in ("eth2", "eth3", "eth0")] == ["rnd", "rnd", ""]


def test_a_certain_group_goes_before_all_within_the_file(write):
    write("group = 1\nfanout = lb\nfanout@1 = rnd\nfilter = tcp\nfilter@1 = udp\n")
    assert ask() == NONE | {"group": 1, "fanout": "rnd", "filter": "udp"}


def test_a_group_that_the_program_chose(write):
    write("group = 1\nfanout = lb\nfilter = tcp\nfanout@2 = rnd\n", FANOUT="cpu")
    config = Config()
    assert config.ask_group(1) == NONE | {"group": 1, "fanout": "cpu", "filter": "tcp"}
    assert config.ask_group(2) == NONE | {"group": 2, "fanout": "rnd"}
    assert config.ask_group(3) == NONE | {"group": 3}


GROUPS, DEVICES, MODES = ["0", "1", "2"], ["eth0", "eth0:1"], ["hash", "lb", "rnd"]
FILE_KEYS = ["group", "fanout", *(f"fanout@{g}" for g in GROUPS), *(f"group_{d}" for d in DEVICES)]
VARIABLES = ["GROUP", "FANOUT", "GROUP_eth0", "GROUP_eth0_1"]


def model(device, lines, variables):
    """What the rules say, written down once more."""
    default = variables.get("GROUP", lines.get("group"))
    own = variables.get(f"GROUP_{device.replace(':', '_')}", lines.get(f"group_{device}"))
    group = own or default
    if group is None:
        return -1, ""
    process = default is None or default == group
    if process and "FANOUT" in variables:
        return int(group), variables["FANOUT"]
    mode = lines.get(f"fanout@{group}", lines.get("fanout", "") if process else "")
    return int(group), mode


def values(keys):
    pick = {k: st.sampled_from(GROUPS if k.lower().startswith("group") else MODES) for k in keys}
    return st.fixed_dictionaries({}, optional=pick)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=values(FILE_KEYS), variables=values(VARIABLES), shuffled=st.randoms())
def test_rules_against_a_model(tmp_path, lines, variables, shuffled):
    text = [f"{key} = {value}\n" for key, value in lines.items()]
    shuffled.shuffle(text)
    (tmp_path / "conf").write_text("".join(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PCAP_CONFIG", str(tmp_path / "conf"))
        for name, value in variables.items():
            patch.setenv(f"PCAP_{name}", value)
        config = Config()
    grouped = any(key.lower().startswith("group") for key in (*lines, *variables))
    for device in DEVICES:
        if grouped or not ({"fanout"} & set(lines) | {"FANOUT"} & set(variables)):
            asked = config.ask(device)
            assert (asked["group"], asked["fanout"]) == model(device, lines, variables)
        else:
            assert "of which group?" in refusal(config.ask, device)


# ---- what is refused -----------------------------------------------------------------------------

LONG = "x" * 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("caplen", "1:1: 'caplen' has no value (write key = value)"),
        ("\n  caplen \n", "2:3: 'caplen' has no value (write key = value)"),
        ("caplen =", "1:9: there is no value"),
        ("# x\ncaplen = 0", "2:10: '0' is no number from 1 to 262144"),
        ("caplen = 262145", "1:10: '262145' is no number from 1 to 262144"),
        ("caplen = 64, 65", "1:10: '64, 65' is no number"),
        ("caplen = 0x40", "1:10: '0x40' is no number"),
        ("caplen = -1", "1:10: '-1' is no number"),
        ("group = 65536", "1:9: '65536' is no number from 0 to 65535"),
        ("group = 4294967296", "1:9: '4294967296' is no number"),
        ("group = 18446744073709551616", "1:9: '18446744073709551616' is no number"),
        ("group = 5 # five", "1:9: '5 # five' is no number"),
        ("group_eth0 = -1", "1:14: '-1' is no number"),
        ("group_ = 1", "1:7: '' is no device"),
        ("group_a b = 1", "1:7: 'a b' is no device"),
        ("rx_slots = 100", "1:12: '100' is no power of two from 64 to 1048576"),
        ("rx_slots = 32", "1:12: '32' is no power"),
        ("rx_slots = 2097152", "1:12: '2097152' is no power"),
        ("fanout@65536 = hash", "1:8: '65536' is no group: ids are 0 to 65535"),
        ("filter@ = tcp", "1:8: '' is no group"),
        ("fanout@eth0 = hash", "1:8: 'eth0' is no group"),
        ("fanout@1", "1:1: 'fanout@1' has no value"),
        ("irq@eth0 = 1", "1:5: 'eth0' is no DEVICE.CHANNEL"),
        ("irq@.1 = 1", "1:5: '' is no device"),
        ("irq@eth0.x = 1", "1:5: 'eth0.x' is no DEVICE.CHANNEL"),
        ("irq@eth0.1 = 1 2", "1:14: '1 2' is no list of CPUs (write 0, 2-4)"),
        ("irq@eth0.1 = 1,", "1:14: '1,' is no list"),
        ("irq@eth0.1 = ,1", "1:14: ',1' is no list"),
        ("irq@eth0.1 = 1,,2", "1:14: '1,,2' is no list"),
        ("irq@eth0.1 = 4-2", "1:14: '4-2' is no list"),
        ("irq@eth0.1 = 8192", "1:14: '8192' is no list"),
        ("rx_channels@eth0 = two", "1:20: 'two' is no number"),
        ("rx_channels = 2", "1:1: there is no key 'rx_channels' (see pcap.conf(5))"),
        ("grup = 2", "1:1: there is no key 'grup'"),
        ("groups = 2", "1:1: there is no key 'groups'"),
        ("2", "1:1: '2' has no value"),
        ("= 2", "1:1: there is no key ''"),
        ("caplen@2 = 96", "1:1: there is no key 'caplen@2'"),
        ("driver = fal", "1:1: there is no key 'driver'"),
        ("config = x", "1:1: there is no key 'config'"),
        ("pcap_group = 1", "1:1: there is no key 'pcap_group'"),
        (" > main", "1:2: '> main' has no value"),
        (f"{LONG} = 1", f"1:1: there is no key '{LONG[:40]}'"),
        (f"caplen = {LONG}", f"1:10: '{LONG[:40]}' is no number"),
        ("group = 1\ncaplen = 1\n\ngroup = 2", "4:9: line 1 says another value: take one out"),
        ("group = 1\ndef_group = 2", "2:13: line 1 says another value"),
        ("rx_slots = 64\npfq_rx_slots = 128", "2:16: line 1 says another value"),
        ("fanout@3 = hash\nfanout@03 = lb", "2:13: line 1 says another value"),
        ("fanout = hash\n> main = tcp", "2:1: line 1 says another value"),
        ("> main = tcp\n\nfanout = hash", "3:10: line 1 says another value"),
        (b"group = 1\0", "1:10: byte 0x00: this is no text"),
        (b"group = 1\n\x7fELF", "2:1: byte 0x7f: this is no text"),
        (b"# \x1b[31m", "1:3: byte 0x1b: this is no text"),
        (b"group = 1\r\r\n", "1:10: byte 0x0d: this is no text"),
    ],
)
def test_wrong_files(write, content, message):
    path = write(content)
    assert refusal(Config).startswith(f"{path}:{message}")


def test_saying_it_twice_is_no_harm(write):
    write("group = 1\ndef_group = 1\nirq@a.0 = 1, 2\nirq@a.0 = 1,2\n", GROUP="4", DEF_GROUP="4")
    assert ask() == NONE | {"group": 4}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"GROUP": "x"}, "PCAP_GROUP: 'x' is no number from 0 to 65535"),
        ({"GROUP_eth0": "65536"}, "PCAP_GROUP_eth0: '65536' is no number"),
        ({"GROUP_": "1"}, "PCAP_GROUP_: '' is no device"),
        ({"DEF_GROUP": "2", "GROUP": "1"}, "PCAP_(DEF_)?GROUP: PCAP_(DEF_)?GROUP says another"),
        ({"CAPLEN": "0"}, "PCAP_CAPLEN: '0' is no number from 1 to 262144"),
        ({"CHANNEL_eth0": "0"}, "PCAP_CHANNEL_eth0: '0' is no number from 1 to 65535"),
        ({"IRQ_eth0": "0"}, "PCAP_IRQ_eth0: 'eth0' is no DEVICE_CHANNEL"),
        ({"IRQ_eth0_0": "a"}, "PCAP_IRQ_eth0_0: 'a' is no list of CPUs"),
        ({"DRIVER": "dpdk"}, "PCAP_DRIVER: there is no engine 'dpdk' .there are fal and tpacket"),
        ({"GROUP": "1\n2"}, "PCAP_GROUP: this is no text"),
        ({"FANOUT": "a\x1b"}, "PCAP_FANOUT: this is no text"),
        ({"CONFIG": "a\nb"}, "PCAP_CONFIG: this is no text"),
    ],
)
def test_wrong_variables(write, variables, message):
    write("", **variables)
    assert re.match(message, refusal(Config))


def test_other_programs_variables_are_theirs(write):
    write(PF_RING_CLUSTER_ID="x", GRP="x", group="x", FANOUTS="x")
    assert ask() == NONE


@pytest.mark.parametrize("engine", [FAL, TPACKET, KERNEL])
def test_modes_are_checked_where_they_are_ours(write, engine):
    path = write("group_eth0 = 1\n\n fanout@1 =  hsh\n")
    assert refusal(ask, "eth0", engine).startswith(f"{path}:3:14: unknown fan-out mode 'hsh'")
    assert ask("eth0", PFRING)["fanout"] == "hsh"
    assert ask("eth1", engine) == NONE
    write("group_eth0 = 1\nfanout@1 = ebpf\n")
    assert "'ebpf' is not supported" in refusal(ask, "eth0", engine)
    write("", GROUP="2", FANOUT="hash+")
    assert refusal(ask, "eth0", engine).startswith("PCAP_FANOUT: unknown fan-out flag ''")
    write("", FANOUT=LONG)
    assert refusal(ask, "eth0", engine).startswith("PCAP_FANOUT: unknown fan-out mode 'xxx")


def test_a_fanout_without_any_group_is_refused(write):
    """Else every copy of a program would get everything, and say nothing."""
    path = write("fanout = hash\n")
    assert refusal(ask) == f"{path}:1:10: of which group? set PCAP_GROUP, or group = N in the file"
    path = write("\n\nfilter = tcp\n")
    assert refusal(ask).startswith(f"{path}:3:10: of which group?")
    write(FANOUT="hash")
    assert refusal(ask).startswith("PCAP_FANOUT: of which group?")
    write(GROUP_eth7="1")
    assert ask() == NONE  # there is one, and eth0 is not meant


@pytest.mark.parametrize("key", PFQ_WORDS)
def test_what_only_pfq_understands(write, key):
    path = write(f"group = 1\npfq_{key} = 5, 6\n")
    assert ask("eth0", PFQ) == NONE | {"group": 1}
    for engine in NOT_PFQ:
        assert refusal(ask, "eth0", engine).startswith(f"{path}:2:{len(key) + 8}: only PFQ has")
    path = write("group = 1\npfq_vlan@1 = 5\n")
    assert refusal(ask).startswith(f"{path}:2:14: only PFQ has this")


def test_pfq_lang(write):
    write("> a\n\n# between\n>b\ngroup = 1\n")
    assert ask("eth0", PFQ) == NONE | {"group": 1, "fanout": " a\nb\n"}
    write("> a\n> b\ngroup = 1\ngroup_eth1 = 2\n")
    assert ask("eth1") == NONE | {"group": 2}  # they are of another group
    write("> a\n> b\ngroup = 1\n", FANOUT="lb")
    assert ask() == NONE | {"group": 1, "fanout": "lb"}
    write("group = 1\n", FANOUT="main = do\n\ttcp\n")
    assert refusal(ask).startswith("PCAP_FANOUT: only PFQ understands PFQ-Lang")
    assert ask("eth0", PFQ)["fanout"] == "main = do\n\ttcp\n"


def test_filters_are_of_fal_pollers_groups(write):
    path = write("group = 1\nfilter@1 = tcp\n")
    for engine in ENGINES[1:]:
        assert refusal(ask, "eth0", engine).startswith(f"{path}:2:12: only fal-poller's groups")


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"group = 5",
        b"group = 5\n",
        b"group = 5\r\n",
        b"# c\r\n\r\n  \r\ngroup = 5\r",
        b"\ngroup=5\n\n",
    ],
)
def test_ends_of_lines(write, content):
    write(content)
    assert ask() == NONE | {"group": 5}


def test_programs_lose_the_ends_of_their_lines(write):
    write(b"group=1\r\n> a\r\n>  b\r\n>")
    assert ask("eth0", PFQ)["fanout"] == " a\n  b\n\n"


@pytest.mark.parametrize("content", ["", "\n", "#", "# group = 1\n\n   # another\n"])
def test_files_that_say_nothing(write, content):
    write(content)
    assert ask() == NONE


def test_files_that_cannot_be_read(write, tmp_path):
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "no", "No such file or directory")):
        write("", CONFIG=str(path))
        assert refusal(Config) == f"cannot read {path}: {why}"
    deep = tmp_path / ("d" * 200)
    write("", CONFIG=str(deep))
    assert refusal(Config) == f"cannot read {'d' * 100}: No such file or directory"


def test_the_largest_file(write):
    largest = 1 << 20
    path = write("group = 5\n" + "#" * (largest - 10))
    assert ask() == NONE | {"group": 5}
    write("group = 5\n" + "#" * (largest - 9))
    assert refusal(Config) == f"cannot read {path}: File too large"
    write(">" * 10 + "\n" + (">" + "x" * 99 + "\n") * 10380 + "group = 1\n>")  # all that fits
    assert len(ask("eth0", PFQ)["fanout"]) > largest - 30000


def test_the_most_settings(write):
    lines = "".join(f"fanout@{i} = hash\n" for i in range(4095))  # and PCAP_CONFIG
    write(lines)
    assert ask() == NONE
    path = write(lines + "fanout@5 = hash\ngroup = 1\n")
    assert refusal(Config) == f"{path}:4097:9: there are more than 4096 settings"


def test_the_messages_of_long_paths_say_what_is_wrong(write, tmp_path):
    deep = tmp_path / ("d" * 120) / ("e" * 90)
    deep.parent.mkdir()
    deep.write_text("group = 70000")
    write("", CONFIG=str(deep))
    assert refusal(Config).endswith("eee:1:9: '70000' is no number from 0 to 65535")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(["group", "caplen", "fanout@", "irq@e.0", "=", " ", "1", ",", "-", "\n"])
        | st.binary(max_size=2).map(lambda b: b.decode("latin-1")),
        max_size=30,
    ).map("".join)
)
def test_any_file_is_read_or_refused_with_a_place_in_it(tmp_path, content):
    path = tmp_path / "any"
    path.write_bytes(content.encode("latin-1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PCAP_CONFIG", str(path))
        try:
            Config()
            return
        except fal.FalError as e:
            message = e.strerror
    place = re.match(r".*/any:(\d+):(\d+): \S", message)
    assert place, message
    line, column = int(place[1]), int(place[2])
    assert 1 <= column <= len(path.read_bytes().split(b"\n")[line - 1]) + 1


# ---- places, users, set-id programs --------------------------------------------------------------


@pytest.fixture(scope="module")
def probe():
    """A program that reads the configuration, where every user may run it."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        program = Path(directory) / "probe"
        sources = (NATIVE / s for s in ("pcap/config.c", "pcap/names.c", "modes.c", "error.c"))
        strict = ["-D_GNU_SOURCE", "-std=c11", "-Wall", "-Werror", f"-I{NATIVE}"]
        done = run("cc", *strict, Path(__file__).with_name("pcapconf.c"), *sources, "-o", program)
        assert (done.returncode, done.stderr) == (0, "")
        yield program


def test_a_set_id_program_does_not_believe_the_environment(probe, write):
    write("caplen = 96", GROUP="5", GROUP_eth0="nonsense")
    environ = os.environ | {"PCAP_CONFIG": "/nowhere"}
    assert run(probe, env=environ).returncode == 1
    done = run(probe, env=environ, preexec_fn=lambda: os.setresuid(65534, 0, 0))
    assert done.returncode == 0
    assert "PCAP" not in done.stdout


def places(probe, etc, root, **how):
    """Run the program where /etc and /root are these."""
    script = 'mount --bind "$1" /etc && mount --bind "$2" /root && exec $4 "$3"'
    user = ["setpriv --reuid 65534 --clear-groups" if how.pop("nobody", False) else ""]
    words = ["unshare", "-m", "sh", "-c", script, "sh", etc, root, probe, *user]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PCAP_")}
    return run(*words, env=environ | how.pop("variables", {}))


def test_default_places(probe, tmp_path):
    etc, root = tmp_path / "etc", tmp_path / "root"
    etc.mkdir()
    root.mkdir()
    root.chmod(0o700)
    assert places(probe, etc, root).stdout == ""
    (root / ".pcap.conf").write_text("group = 2")
    assert places(probe, etc, root).stdout == "/root/.pcap.conf = 2\n"
    hidden = places(probe, etc, root, nobody=True)
    assert (hidden.returncode, hidden.stdout) == (0, "")  # what is there, this user cannot know
    (etc / "pcap.conf").write_text("group = 1")
    assert places(probe, etc, root).stdout == "/etc/pcap.conf = 1\n"
    variables = {"PCAP_CONFIG": "/dev/null"}
    assert places(probe, etc, root, variables=variables).stdout == "PCAP_CONFIG = /dev/null\n"
    (etc / "pcap.conf").chmod(0o600)
    refused = places(probe, etc, root, nobody=True)
    assert (refused.returncode, refused.stdout) == (
        1,
        "cannot read /etc/pcap.conf: Permission denied\n",
    )


# ---- in Python -----------------------------------------------------------------------------------


def test_settings_say_where_they_come_from(write):
    path = write("group = 4\nrx_channels@eth0 = 2\nirq@eth0.0 = 1\nfanout@4 = lb\n")
    write(Path(path).read_text(), DRIVER="fal", GROUP_eth0_1="5", CAPLEN="96", IRQ_eth0_3="0-1")
    assert pcapconf.settings("eth0:1^eth1") == [
        ("eth0:1", "engine", "fal", "PCAP_DRIVER"),
        ("eth0:1", "group", "5", "PCAP_GROUP_eth0_1"),
        ("eth0:1", "fanout", "as the group is, hash for a new one", ""),
        ("eth0:1", "filter", "none", ""),
        ("eth0:1", "caplen", "96", "PCAP_CAPLEN"),
        ("eth0:1", "ring", "the default", ""),
        ("eth0:1", "irq of channel 3", "0-1", "PCAP_IRQ_eth0_3"),
        ("eth0:1", "rx channels", "2", f"{path}:2:20"),
        ("eth0:1", "irq of channel 0", "1", f"{path}:3:14"),
        ("eth1", "engine", "fal", "PCAP_DRIVER"),
        ("eth1", "group", "4", f"{path}:1:9"),
        ("eth1", "fanout", "lb", f"{path}:4:12"),
        ("eth1", "filter", "none", ""),
        ("eth1", "caplen", "96", "PCAP_CAPLEN"),
        ("eth1", "ring", "the default", ""),
    ]


def test_settings_where_nothing_is_said():
    assert pcapconf.settings("tpacket:lo") == [
        ("lo", "engine", "tpacket", "the device's name"),
        ("lo", "group", "none", ""),
        ("lo", "fanout", "none", ""),
        ("lo", "filter", "none", ""),
        ("lo", "caplen", "as the program says", ""),
        ("lo", "ring", "the default", ""),
    ]
    assert pcapconf.settings("lo")[0] == ("lo", "engine", "libpcap's", "")
    lines = pcapconf.table("lo").splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["DEVICE", "WHAT", "VALUE", "SAID", "BY"],
        ["lo", "engine", "libpcap's"],
        ["lo", "group", "none"],
    ]


def test_settings_are_refused_as_the_library_does(write):
    write(GROUP="x")
    assert refusal(pcapconf.settings, "lo").startswith("PCAP_GROUP: 'x'")
    write(GROUP="1", DRIVER="pfq")
    assert "libpfq" in refusal(pcapconf.settings, "lo")
    assert "is empty" in refusal(pcapconf.settings, "fal:")
    assert "NUL" in refusal(pcapconf.settings, "a\0b")


# ---- the page ------------------------------------------------------------------------------------


def test_the_manual_page_has_every_word():
    rows = re.findall(r'^    \{"([^"]*)", "([^"]*)", FAL_PCAP_', CONFIG_C.read_text(), re.MULTILINE)
    assert len(rows) > 20
    page = (ROOT / "docs" / "man" / "pcap.conf.5").read_text().replace("\\-", "-")
    for key, variable in rows:
        assert not key or re.search(rf"^\.BI? \"?{re.escape(key)}", page, re.MULTILINE), key
        assert not variable or f"PCAP_{variable}" in page, variable
