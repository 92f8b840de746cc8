"""Which interrupts are a channel's, by recorded trees of /proc and /sys, and who serves them."""

import errno
from pathlib import Path

import pytest
from support import run

import fal
from fal import FalError, channels
from fal.bindings import ffi, lib
from fal.libpcap import FAL_LIBRARY as LIBRARY

PACKAGE = Path(fal.__file__).parent

FIRST = 40  # the number of a machine's first interrupt


class Machine:
    """Trees of /proc and /sys with some devices, each with interrupts of these names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lines = ["           CPU0       CPU1\n", "  8:          1          0  IO-APIC rtc0\n"]
        self.irqs: dict[str, int] = {}  # by name
        self.functions = 0

    def add(self, *devices: str, names: tuple[str, ...], virtio: bool = False) -> None:
        """One PCI function with these devices (ports)."""
        at = f"0000:3b:00.{self.functions}"
        function = self.root / "sys/devices/pci0000:00" / at
        holder = function / f"virtio{self.functions}" if virtio else function
        self.functions += 1
        (function / "msi_irqs").mkdir(parents=True)
        for device in devices:
            for queue in ("rx-0", "rx-1", "tx-0", "tx-1"):
                (holder / "net" / device / "queues" / queue).mkdir(parents=True)
            (holder / "net" / device / "device").symlink_to(f"../../../{holder.name}")
            net = self.root / "sys/class/net"
            net.mkdir(parents=True, exist_ok=True)
            (net / device).symlink_to(holder / "net" / device)
        for i, line in enumerate(names):
            irq = FIRST + 2 * len(self.irqs)
            self.irqs |= dict.fromkeys(line.split(", "), irq)
            self.irqs[line] = irq
            (function / "msi_irqs" / str(irq)).write_text("msix\n")
            own = self.root / f"proc/irq/{irq}"
            own.mkdir(parents=True)
            (own / "smp_affinity_list").write_text("0-1\n")
            tail = f"{i}-edge      {line}" if line else f"{i}-edge"
            self.lines.append(f" {irq}:  {i}  7  IR-PCI-MSIX-{at}   {tail}\n")

    def written(self) -> None:
        tail = "NMI:          0          0   Non-maskable interrupts\nERR:          0\n"
        (self.root / "proc/interrupts").write_text("".join(self.lines) + tail)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(channels, "ROOT", bytes(tmp_path))
    return Machine(tmp_path)


def row(*names, of):
    """`of`: for each channel the name by which it receives, and the one by which it sends."""
    return names, of


def both(pattern, numbers):
    return [(pattern.format(n), pattern.format(n)) for n in numbers]


# As the drivers call them (Linux 6.x) when the device is called eth1, in the order of the vectors.
AT = "0000:3b:00.0"
DRIVERS = {
    "ixgbe": row(
        *("eth1-TxRx-0", "eth1-TxRx-1", "eth1-TxRx-10", "eth1"),
        of=both("eth1-TxRx-{}", (0, 1)),
    ),
    "ixgbe, more receiving": row(
        *("eth1-TxRx-0", "eth1-rx-1", "eth1"),
        of=[("eth1-TxRx-0", "eth1-TxRx-0"), ("eth1-rx-1", None)],
    ),
    "i40e": row(
        *(f"i40e-{AT}:misc", "i40e-eth1-TxRx-0", "i40e-eth1-TxRx-1", f"i40e-{AT}:fdir-TxRx-0"),
        of=both("i40e-eth1-TxRx-{}", (0, 1)),
    ),
    "ice": row(
        *(f"ice-{AT}:misc", "ice-eth1-TxRx-0", "ice-eth1-TxRx-1", f"ice-{AT}:ctrl-TxRx-0"),
        of=both("ice-eth1-TxRx-{}", (0, 1)),
    ),
    "igb": row(*("eth1", "eth1-TxRx-0", "eth1-TxRx-1"), of=both("eth1-TxRx-{}", (0, 1))),
    "igb, apart": row(
        *("eth1", "eth1-rx-0", "eth1-rx-1", "eth1-tx-0", "eth1-tx-1"),
        of=[("eth1-rx-0", "eth1-tx-0"), ("eth1-rx-1", "eth1-tx-1")],
    ),
    "mlx5": row(
        *(f"mlx5_async0@pci:{AT}", f"mlx5_comp0@pci:{AT}", f"mlx5_comp1@pci:{AT}"),
        of=both(f"mlx5_comp{{}}@pci:{AT}", (0, 1)),
    ),
    "mlx4": row(
        *(f"mlx4-async@pci:{AT}", f"mlx4-1@{AT}", f"mlx4-2@{AT}"),
        of=both(f"mlx4-{{}}@{AT}", (1, 2)),
    ),
    "virtio": row(
        *("virtio0-config", "virtio0-input.0", "virtio0-output.0"),
        *("virtio0-input.1", "virtio0-output.1"),
        of=[("virtio0-input.0", "virtio0-output.0"), ("virtio0-input.1", "virtio0-output.1")],
    ),
    "virtio, few vectors": row(
        *("virtio0-config", "virtio0-virtqueues"), of=both("virtio0-virtqueues", "01")
    ),
    "gve": row(
        *(f"gve-ntfy-blk{n}@pci:{AT}" for n in range(4)),
        f"gve-mgmnt@pci:{AT}",
        of=[(f"gve-ntfy-blk{n + 2}@pci:{AT}", f"gve-ntfy-blk{n}@pci:{AT}") for n in (0, 1)],
    ),
    "ena": row(
        *(f"ena-mgmnt@pci:{AT}", "eth1-Tx-Rx-0", "eth1-Tx-Rx-1"),
        of=both("eth1-Tx-Rx-{}", (0, 1)),
    ),
    "bnxt": row(
        *("eth1-TxRx-0", "eth1-TxRx-1", f"bnxt_re-nq-0@pci:{AT}"),
        of=both("eth1-TxRx-{}", (0, 1)),
    ),
    "bnxt, apart": row(  # one count for both
        *("eth1-rx-0", "eth1-rx-1", "eth1-tx-2", "eth1-tx-3"),
        of=[("eth1-rx-0", "eth1-tx-2"), ("eth1-rx-1", "eth1-tx-3")],
    ),
    "tg3": row(
        *("eth1-tx-0", "eth1-rx-1", "eth1-rx-2"),
        of=[("eth1-rx-1", "eth1-tx-0"), ("eth1-rx-2", None)],
    ),
    "hns3": row(
        *(f"hclge-misc-{AT}", f"hns3-{AT}-TxRx-0", f"hns3-{AT}-TxRx-1"),
        of=both(f"hns3-{AT}-TxRx-{{}}", (0, 1)),
    ),
    "mana": row(
        *(f"mana_hwc@pci:{AT}", f"mana_q0@pci:{AT}", f"mana_q1@pci:{AT}"),
        of=both(f"mana_q{{}}@pci:{AT}", (0, 1)),
    ),
    "vmxnet3": row(*("eth1-rxtx-0", "eth1-rxtx-1", "eth1-event-2"), of=both("eth1-rxtx-{}", "01")),
    "bnx2x": row(*("eth1", "eth1-fp-0", "eth1-fp-1"), of=both("eth1-fp-{}", (0, 1))),
    "be2net": row(*("eth1-q0", "eth1-q1"), of=both("eth1-q{}", (0, 1))),
    "r8169": row("eth1", of=both("eth1", "01")),
    "several on one line": row(
        *("eth1-rx-0, eth1-tx-0", "eth1-rx-1, eth1-tx-1"),
        of=[("eth1-rx-0", "eth1-tx-0"), ("eth1-rx-1", "eth1-tx-1")],
    ),
}


@pytest.mark.parametrize("called", ["eth1", "lan0"])  # set up as eth1, then renamed
@pytest.mark.parametrize("driver", DRIVERS)
def test_names_of_drivers(machine, driver, called):
    names, of = DRIVERS[driver]
    machine.add("eth10", names=("eth10-TxRx-0", "eth10-TxRx-1", "eth10"))
    machine.add(called, names=names, virtio=names[0].startswith("virtio"))
    irqs = dict(machine.irqs)
    machine.add("veth1", names=("i40e-veth1-TxRx-0", "i40e-veth1-TxRx-1"))
    machine.written()
    for channel, (rx, tx) in enumerate(of):
        expected = list(dict.fromkeys(irqs[name] for name in (rx, tx) if name))
        assert channels.irqs(called, channel) == tuple(expected)
        assert channels.irqs(called, channel, "rx") == (irqs[rx],)
        if tx:
            assert channels.irqs(called, channel, "tx") == (irqs[tx],)
    with pytest.raises(FalError, match=f"{called} has no channel {len(of)} that") as e:
        channels.irqs(called, len(of))
    assert e.value.errno == errno.ENOENT


def test_ports_of_one_function(machine):
    """cxgb4: sysfs gives all ports' interrupts to each; the names tell, and then in full."""
    names = ("eth10-Rx0", "eth10-Rx1", "eth1-Rx0", "eth1-Rx1", "eth11-Rx0", "eth1-FWeventq")
    machine.add("eth1", "eth10", "lan0", names=names)
    machine.written()
    for device in ("eth1", "eth10"):
        for channel in (0, 1):
            expected = (machine.irqs[f"{device}-Rx{channel}"],)
            assert channels.irqs(device, channel) == expected
    with pytest.raises(FalError, match=r"lan0 shares its hardware .* set it down and up") as e:
        channels.irqs("lan0", 0)
    assert e.value.errno == errno.ENOTUNIQ


def test_what_has_no_interrupts(machine):
    machine.add("eth1", names=("eth1-event", "eth1-mgmnt"))  # it is down
    machine.add("eth2", names=("",))  # had one, and gave it back
    machine.add("eth3", names=())
    machine.written()
    (machine.root / "sys/devices/pci0000:00/0000:3b:00.2/msi_irqs").rmdir()
    (machine.root / "sys/class/net/tap0").mkdir()
    known = "no interrupt of {} is known to serve a channel (is it up?)"
    for device, code, why in (
        ("eth1", errno.EOPNOTSUPP, known.format("eth1")),
        ("eth2", errno.EOPNOTSUPP, known.format("eth2")),
        ("eth3", errno.EOPNOTSUPP, "eth3 has no message-signalled interrupts"),
        ("tap0", errno.EOPNOTSUPP, "tap0 is no hardware: its channels have no interrupts"),
        ("eth4", errno.ENODEV, f"no device eth4 in {machine.root}/sys/class/net"),
        ("../net/eth1", errno.ENODEV, "no device ../net/eth1 (see: ip link)"),
        ("", errno.ENODEV, "no device  (see: ip link)"),
    ):
        with pytest.raises(FalError) as e:
            channels.affinity(device, 0)
        assert (e.value.errno, str(e.value)) == (code, why)


# ---- the CPUs ----------------------------------------------------------------------------------


@pytest.fixture
def apart(machine):
    machine.add("eth1", names=("eth1-rx-0", "eth1-rx-1", "eth1-tx-0", "eth1-tx-1"))
    machine.written()

    def file(name):
        return machine.root / f"proc/irq/{machine.irqs[name]}/smp_affinity_list"

    return file


def test_affinity(apart):
    assert channels.affinity("eth1", 0) == {0, 1}
    assert channels.set_affinity("eth1", 0, [0, 1, 2, 63, 64, 70, 1023])
    assert apart("eth1-rx-0").read_text() == "0-2,63-64,70,1023"
    assert apart("eth1-tx-0").read_text() == "0-2,63-64,70,1023"
    assert channels.affinity("eth1", 0) == {0, 1, 2, 63, 64, 70, 1023}
    assert apart("eth1-rx-1").read_text() == "0-1\n", "another channel is let be"
    assert channels.set_affinity("eth1", 0, [5], "tx")
    assert channels.affinity("eth1", 0, "rx") == {0, 1, 2, 63, 64, 70, 1023}
    assert channels.affinity("eth1", 0, "tx") == {5}
    assert channels.affinity("eth1", 0) == {0, 1, 2, 5, 63, 64, 70, 1023}


def test_it_is_written_only_when_it_is_another(apart):
    apart("eth1-rx-1").write_text("1,0,0-1\n")
    assert not channels.set_affinity("eth1", 1, [0, 1])
    assert apart("eth1-rx-1").read_text() == "1,0,0-1\n"


def test_it_is_read_back(apart):
    """A file that takes 15 bytes and no more: a thread's name."""
    comm = Path("/proc/thread-self/comm").resolve()
    before = comm.read_text()
    apart("eth1-rx-0").unlink()
    apart("eth1-rx-0").symlink_to(comm)
    try:
        comm.write_text("3")
        with pytest.raises(FalError, match="went to other CPUs than 0,2,4,6,8,10,12,14 ") as e:
            channels.set_affinity("eth1", 0, range(0, 16, 2), "rx")
        assert e.value.errno == errno.EBUSY
    finally:
        comm.write_text(before)


def test_what_cannot_be_set(apart):
    apart("eth1-tx-0").unlink()
    apart("eth1-tx-0").symlink_to("/dev/full")
    apart("eth1-rx-1").unlink()
    for words, code, why in (
        ((0, []), errno.EINVAL, "no CPU is named"),
        ((0, [1024]), errno.EINVAL, "no CPU 1024: from 0 to 1023"),
        ((0, [-1]), errno.EINVAL, "no CPU -1"),
        ((-1, [0]), errno.EINVAL, "a channel's number is an int from 0"),
        ((2**32 - 1, [0]), errno.ENOENT, "eth1 has no channel -1"),
        ((2, [0], "rx"), errno.ENOENT, "eth1 has no receiving channel 2"),
        ((2, [0], "tx"), errno.ENOENT, "eth1 has no sending channel 2"),
        ((0, [0], "other"), errno.EINVAL, r"no channel is 'other' \(known: rx, tx, combined\)"),
        ((0, [3], "tx"), errno.EINVAL, "is no list of CPUs"),
        ((1, [0]), errno.ENOENT, "no interrupt 4"),
    ):
        with pytest.raises(FalError, match=why) as e:
            channels.set_affinity("eth1", *words)
        assert e.value.errno == code


def text_of(cpus):
    text = ffi.new("char[]", lib.FAL_CPUS_TEXT)
    return ffi.string(lib.fal_cpus_text(cpus, text)).decode()


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("0", "0"),
        ("3,1,2,0", "0-3"),
        ("0-1023\n", "0-1023"),
        ("0-3,8,62-66", "0-3,8,62-66"),
        (",".join(map(str, range(0, 1024, 2))), ",".join(map(str, range(0, 1024, 2)))),
    ],
)
def test_lists_of_cpus(text, same):
    cpus, err = ffi.new("struct fal_cpus *"), ffi.new("struct fal_error *")
    assert lib.fal_cpus_parse(text.encode(), cpus, err) == 0
    assert text_of(cpus) == same


@pytest.mark.parametrize(
    "text", ["", "\n", "x", "1024", "0-1024", "3-1", "1,", ",1", "1-", "-1", "1 2", "1--2", "0x1"]
)
def test_no_lists_of_cpus(text):
    cpus, err = ffi.new("struct fal_cpus *"), ffi.new("struct fal_error *")
    assert lib.fal_cpus_parse(text.encode(), cpus, err) == -1
    assert err.code == errno.EINVAL
    assert (
        ffi.string(err.text).decode() == f"'{text}' is no list of CPUs: write 0-3,8, at most 1023"
    )


# ---- by configuration --------------------------------------------------------------------------


@pytest.fixture
def tune(machine, monkeypatch, tmp_path):
    """Read a file (and the environment), and do what it says for a device."""

    def tune(device, text, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "pcap.conf").write_text(text)
        monkeypatch.setenv("PCAP_CONFIG", str(tmp_path / "pcap.conf"))
        err = ffi.new("struct fal_error *")
        config = ffi.gc(
            fal.errors.checked(lib.fal_pcap_config_read(err), err), lib.fal_pcap_config_free
        )
        fal.errors.checked(lib.fal_pcap_tune(channels.ROOT, config, device.encode(), err), err)

    return tune


def test_configured_once_a_process(machine, tune):
    machine.add("once1", "once10", names=("once1-Rx0", "once1-Rx1", "once10-Rx0"))
    machine.written()
    text = "irq@once1.0 = 0, 4-5\nirq@once10.0 = 7\n"
    tune("once1", text, PCAP_IRQ_once1_1="6")
    assert channels.affinity("once1", 0) == {0, 4, 5}
    assert channels.affinity("once1", 1) == {6}
    assert channels.affinity("once10", 0) == {0, 1}, "another device"
    channels.set_affinity("once1", 0, [3])
    tune("once1", text)
    assert channels.affinity("once1", 0) == {3}, "once a process"
    tune("once10", text)
    assert channels.affinity("once10", 0) == {7}


def test_configured_in_vain(machine, tune, tmp_path):
    machine.add("vain1", names=("vain1-Rx0",))
    machine.written()
    with pytest.raises(FalError) as e:
        tune("vain1", "# three\n\nirq@vain1.2 = 0")
    why = "vain1 has no channel 2 that has an interrupt"
    assert (e.value.errno, str(e.value)) == (errno.ENOENT, f"{tmp_path}/pcap.conf:3:15: {why}")
    with pytest.raises(FalError) as e:
        tune("vain1", "", PCAP_IRQ_vain1_1="0")
    assert str(e.value) == "PCAP_IRQ_vain1_1: vain1 has no channel 1 that has an interrupt"
    tune("vain1", "irq@vain1.0 = 2", PCAP_IRQ_vain1_1="")
    assert channels.affinity("vain1", 0) == {2}, "a failure is not remembered"


# ---- the paper's functions ---------------------------------------------------------------------

SAID = """\
42
42
46
-1 eth1 has no sending channel -1 that has an interrupt
-1 interrupts are known of rx, tx and combined channels only
-1 -
1
1
CPU 0
CPU 100
1
CPU 0
CPU 100
-1 -
ENODEV
1
1
CPU 0
CPU 100
1
CPU 0
CPU 2
CPU 100
-1 eth1 has no sending channel 2 that has an interrupt
1
1
CPU 2
1
-1 no interrupt 45: cannot open /proc/irq/45/smp_affinity_list: No such file or directory
"""
HERE = Path(__file__).parent
COMPILERS = {"C": ("cc", "-std=c11", "-D_GNU_SOURCE"), "C++": ("clang-14", "-xc++", "-std=c++17")}


@pytest.mark.parametrize("language", COMPILERS)
def test_the_papers_functions(apart, machine, tmp_path, language):
    """On a machine whose /proc and /sys are the recorded ones."""
    program = tmp_path / "program"
    strict = ("-Wall", "-Wextra", "-Werror", "-Wpedantic")
    place = ("-I", PACKAGE / "include", f"-L{LIBRARY.parent}", "-l:libpcap.so.0.8")
    rpath = f"-Wl,-rpath,{LIBRARY.parent}"
    done = run(*COMPILERS[language], *strict, HERE / "channels.c", "-o", program, *place, rpath)
    assert (done.returncode, done.stderr) == (0, "")
    mounts = [
        f"mount --bind {machine.root}/{path} /{path}"
        for path in ("proc/interrupts", "proc/irq", "sys/class/net")
    ]
    done = run("unshare", "-m", "sh", "-ec", " && ".join([*mounts, f"exec {program}"]))
    assert (done.stdout, done.stderr) == (SAID, "")


def test_four_arguments_are_refused(tmp_path):
    source = tmp_path / "program.c"
    source.write_text("""
        #include <pcap/fanout.h>
        int f(const cpu_set_t *cpus) { return pcap_channel_setaffinity("eth0", 0, 1, cpus); }
    """)
    done = run("cc", "-Werror", "-c", source, "-I", PACKAGE / "include", "-o", tmp_path / "o")
    assert "pcap_channel_setaffinity_takes_3_or_5_arguments" in done.stderr
    assert done.returncode == 1
