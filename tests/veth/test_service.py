"""The unit files: systemd understands them, and what they allow is what fal-poller needs."""

import os
import re
import shutil
from pathlib import Path

import psutil
import pytest
from support import BIN, eventually, received, run, send_slowly, udp

import fal

ROOT = Path(__file__).parents[2]
POLLER = ROOT / "systemd" / "fal-poller@.service"
UNITS = (POLLER, ROOT / "hugepages" / "fal-hugepages.service")
FRAMES = [udp(("10.0.0.1", 1000 + i), ("10.0.0.2", 53)) for i in range(100)]
NOBODY = 65534


def setting(name):
    """Return the words of one setting of the poller's unit."""
    return re.search(rf"^{name}=(.*)$", POLLER.read_text(), re.M)[1].split()


def verified(unit, directory):
    """Return what systemd says of a unit, as if it were installed with what it starts."""
    text = unit.read_text().replace("/usr/local/bin", str(BIN))
    copy = directory / unit.name.replace("@.", "@eth0.")
    copy.write_text(text)
    done = run("systemd-analyze", "verify", copy)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_understands_it(unit, tmp_path):
    assert verified(unit, tmp_path) == (0, "")


def allowed_calls():
    """Return the system calls of the unit's filter, its groups looked up."""
    text = run("systemd-analyze", "syscall-filter").stdout
    groups = {}
    for line in text.splitlines():
        if line.startswith("@"):
            name = line.strip()
            groups[name] = set()
        elif line.strip() and not line.lstrip().startswith("#"):
            groups[name].add(line.strip())

    def members(word):
        return set().union(*map(members, groups[word])) if word in groups else {word}

    return set().union(*map(members, setting("SystemCallFilter")))


def test_what_it_allows_is_enough(make_veth, start_poller, runtime, tmp_path):
    """As the unit starts it: not root, these capabilities, these system calls and no others.

    Two come on top: CAP_DAC_READ_SEARCH, since the tests' Python may lie where others cannot look,
    and CAP_IPC_LOCK for the limit of locked memory, which a test may not be allowed to raise.
    """
    wanted = ["CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_BPF"]
    assert setting("AmbientCapabilities") == setting("CapabilityBoundingSet") == wanted
    assert setting("SystemCallFilter") == ["@system-service", "bpf"]
    assert setting("LimitMEMLOCK") == ["infinity"]
    some = ["CAP_DAC_READ_SEARCH", "CAP_IPC_LOCK", *setting("AmbientCapabilities")]
    only = ",".join(["-all", *(f"+{c.removeprefix('CAP_').lower()}" for c in some)])
    trace = tmp_path / "trace"
    through = [
        *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"),
        *(f"--bounding-set={only}", f"--inh-caps={only}", f"--ambient-caps={only}"),
    ]
    os.chown(runtime, NOBODY, NOBODY)
    veth = make_veth()
    poller = start_poller(
        veth.device,
        namespace=veth.inside,
        through=[shutil.which("strace"), "-D", "-f", "-o", str(trace), *through],
    )
    assert psutil.Process(poller.pid).uids().real == NOBODY
    with fal.open(poller.device, group=1) as s, fal.open(poller.device) as everything:
        send_slowly(veth, FRAMES, everything)
        assert [frame for _, frame in received(s)] == FRAMES
    assert poller.stop() == 0
    eventually(lambda: f"{poller.pid} +++ exited with 0" in re.sub(" +", " ", trace.read_text()))

    lines = trace.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if "execve(" in line and "fal-poller" in line)
    text = "\n".join(lines[start:])
    calls = set(re.findall(r"^\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed)", text, re.M))
    assert {"bpf", "sendto"} <= calls
    assert calls <= allowed_calls(), calls - allowed_calls()
    families = set(re.findall(r"^\d+ +socket(?:pair)?\((AF_\w+)", text, re.M))
    assert families == set(setting("RestrictAddressFamilies"))
