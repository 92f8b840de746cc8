"""`fal run`: what it starts, with what, how it refuses; and copies: signals, ends, nothing left."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
from contextlib import suppress
from pathlib import Path

import pytest
from support import BIN, NOBODY, eventually, run

from fal.libpcap import FAL_LIBRARY as LIBRARY

FAL = BIN / "fal"
TCPDUMP = "fal run -- tcpdump -i DEVICE -U -w -"
SHARED = ("--group", "7")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", *(n for n in os.environ if n[:5] == "PCAP_")):
        monkeypatch.delenv(name, raising=False)


def refused(code, *words, through=()):
    done = run(*through, FAL, "run", *words)
    assert (done.returncode, done.stdout) == (code, ""), done
    return done.stderr.splitlines()[-1 if code == 2 else 0 :][0]


# ---- one program ---------------------------------------------------------------------------------


def environment(*words, **options):
    done = run(FAL, "run", *words, "--", "env", **options)
    assert (done.returncode, done.stderr) == (0, "")
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    return {n: v for n, v in found.items() if n.startswith(("LD_", "PCAP_"))}


def test_environment(tmp_path, monkeypatch):
    ours = {"LD_PRELOAD": str(LIBRARY), "LD_LIBRARY_PATH": str(LIBRARY.parent)}
    assert environment() == ours
    (tmp_path / "my.conf").write_text("caplen = 100\n")
    words = (
        *("--driver", "tpacket", "--group", "7", "--fanout", "hash+rollover"),
        *("--caplen", "96", "--config", "my.conf"),
    )
    said = {
        "PCAP_DRIVER": "tpacket",
        "PCAP_GROUP": "7",
        "PCAP_FANOUT": "hash+rollover",
        "PCAP_CAPLEN": "96",
        "PCAP_CONFIG": f"{tmp_path}/my.conf",
    }
    assert environment(*words, cwd=tmp_path) == ours | said
    monkeypatch.setenv("LD_PRELOAD", "libc.so.6")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/lib:/lib")
    monkeypatch.setenv("PCAP_DEF_GROUP", "8")
    monkeypatch.setenv("PCAP_GROUP_eth0", "9")
    assert environment("--group", "0") == {
        "LD_PRELOAD": f"{LIBRARY}:libc.so.6",
        "LD_LIBRARY_PATH": f"{LIBRARY.parent}:/usr/lib:/lib",
        "PCAP_GROUP": "0",
        "PCAP_GROUP_eth0": "9",
    }


@pytest.mark.parametrize("locale", [{}, {"LC_CTYPE": "C"}, {"LC_CTYPE": "C.UTF-8"}], ids=str)
def test_the_locale_is_left_alone(locale):
    """Python sets one for itself where it is C."""
    done = run(FAL, "run", "--", "env", env=locale | {"PATH": os.environ["PATH"]})
    left = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert {n: v for n, v in left.items() if n.startswith(("LC_", "LANG"))} == locale


def test_behind_sudo(monkeypatch):
    """Which drops LD_PRELOAD, and looks for commands in places of its own."""
    monkeypatch.setenv("LD_PRELOAD", "libc.so.6")
    done = run("sudo", FAL, "run", "--", "env")
    assert done.returncode == 0, done.stderr
    assert f"LD_PRELOAD={LIBRARY}\n" in done.stdout


def test_it_becomes_the_program():
    """The same process, its signals as they would be without `fal run`, its input and its end."""
    look = ("grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status")
    assert run(FAL, "run", "--", *look).stdout == run(*look).stdout
    script = "echo $$; cat; kill -KILL $$"
    with subprocess.Popen(
        [FAL, "run", "--", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.communicate("in\n", 10)[0] == f"{process.pid}\nin\n"
    assert process.returncode == -signal.SIGKILL
    assert run(FAL, "run", "--", "sh", "-c", "exit 7").returncode == 7


def test_arguments_are_the_programs():
    """With -- and without; {i} is one of them until there are copies."""
    words = ("-n", "--group", "x y", "{i}", "--", "", "--check")
    for dashes in ((), ("--",)):
        done = run(FAL, "run", *SHARED, *dashes, "printf", "%s|", *words)
        assert done.stdout == "".join(f"{word}|" for word in words)


# ---- what it refuses -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made():
    """Programs that print whether the loader may be told anything: 0, or 1 (AT_SECURE)."""
    with tempfile.TemporaryDirectory() as where:
        Path(where).chmod(0o755)  # of pytest's directories nobody sees the inside
        yield programs(Path(where))


def programs(where):
    source = where / "p.c"
    source.write_text(
        "#include <stdio.h>\n#include <sys/auxv.h>\n"
        'int main(void) { printf("%lu\\n", getauxval(AT_SECURE)); }\n'
    )
    for name, *options in (
        ("plain",),
        ("static", "-static"),
        ("static-pie", "-static-pie"),
        ("musl", "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1"),
    ):
        done = run("cc", source, "-o", where / name, *options)
        assert done.returncode == 0, done.stderr
    plain = (where / "plain").read_bytes()
    for name, content in (
        ("narrow", plain[:4] + b"\1" + plain[5:]),  # of 32 bits
        ("arm", plain[:18] + b"\xb7" + plain[19:]),
        ("short", plain[:60]),
        ("cut", plain[:100]),
        ("text", b"echo no\n"),
        ("script", f"#!{where}/static -x\n".encode()),
        ("deep", f"#! {where}/script\n".encode()),
        ("loop", f"#!{where}/loop\n".encode()),
        ("none", b"#!\n"),
        ("lost", b"#!/nosuch/sh\n"),
        ("python", f"#!/usr/bin/env -S A=b {sys.executable} -S\nprint(0)\n".encode()),
    ):
        (where / name).write_bytes(content)
        (where / name).chmod(0o755)
    for name, owner, group, mode in (
        ("set-user-root", 0, 0, 0o4755),
        ("set-user-other", 1, 0, 0o4755),
        ("set-group-root", 0, 0, 0o2755),
        ("set-group-other", 0, 1, 0o2755),
        ("mandatory-lock", 0, 1, 0o2745),
        ("capable", 0, 0, 0o755),
    ):
        (where / name).write_bytes(plain)
        os.chown(where / name, owner, group)
        (where / name).chmod(mode)
    capability = b"\1\0\0\2" + (1 << 2).to_bytes(4, "little") + bytes(12)  # CAP_DAC_READ_SEARCH
    os.setxattr(where / "capable", "security.capability", capability)
    return where


@pytest.mark.parametrize(
    ("name", "code", "why"),
    [
        ("static", 1, "static is static: it has no dynamic loader"),
        ("static-pie", 1, "static-pie is static"),
        ("musl", 1, "another C library than FAL, that of /lib/ld-musl-x86_64.so.1 ("),
        ("narrow", 1, "narrow is for another machine than FAL ("),
        ("arm", 1, "arm is for another machine"),
        ("cut", 1, "cut is static"),
        ("short", 126, "short is neither an ELF program nor a script"),
        ("text", 126, "text is neither an ELF program nor a script"),
        ("script", 1, "/static is static"),
        ("deep", 1, "/static is static"),
        ("loop", 126, "loop is a script"),
        ("none", 126, "none is a script whose first line names no program"),
        ("lost", 127, "/nosuch/sh: no such program"),
        ("p.c", 126, "p.c is no file that may be executed"),
        ("", 126, "is no file that may be executed"),
        ("nosuch", 127, "nosuch: no such program"),
    ],
)
def test_unreachable(made, name, code, why):
    line = refused(code, "--", f"{made}/{name}")
    assert line.startswith("fal: ")
    assert why in line
    if code == 1:
        program = Path(line.split()[1]).name
        assert line.endswith(f"(let tcpdump read for it: {TCPDUMP} | {program} -r -)")


def test_found_as_a_shell_finds_it(made, monkeypatch):
    assert refused(127, "nosuchprogram") == "fal: nosuchprogram: no such program"
    assert refused(127, "p.c") == "fal: p.c: no such program"
    monkeypatch.setenv("PATH", f"{made}:{os.environ['PATH']}")
    assert refused(1, "static").startswith(f"fal: {made}/static is static")
    for name in ("plain", "python"):
        assert run(FAL, "run", name).stdout == "0\n"


@pytest.mark.parametrize("who", ["root", "nobody"])
@pytest.mark.parametrize(
    "name",
    [
        *("plain", "set-user-root", "set-user-other", "set-group-root", "set-group-other"),
        *("mandatory-lock", "capable"),
    ],
)
def test_rights(made, who, name):
    """Refused is what the kernel starts AT_SECURE, nothing else; root is named where it helps."""
    through = NOBODY if who == "nobody" else ()
    if secure := int(run(*through, made / name).stdout):
        line = refused(1, "--", made / name, through=through)
        assert ", for which the loader ignores LD_PRELOAD (" in line
        helps = not int(run(made / name).stdout)
        assert line.endswith(f"sudo fal run -- {name})" if helps else f"| {name} -r -)")
    else:
        assert run(*through, FAL, "run", "--", made / name).stdout == "0\n"
    assert secure == (name in SECURE[who])


SECURE = {
    "root": ("set-user-other", "set-group-other"),
    "nobody": ("set-user-root", "set-user-other", "set-group-root", "set-group-other", "capable"),
}


def test_rights_that_the_file_system_does_not_give(made, tmp_path):
    assert run("mount", "-t", "tmpfs", "-o", "nosuid", "none", tmp_path).returncode == 0
    try:
        for name in ("set-user-other", "set-group-other"):
            shutil.copy(made / name, tmp_path)
            shutil.chown(tmp_path / name, 1, 1)
            (tmp_path / name).chmod(0o6755)
            assert run(FAL, "run", "--", tmp_path / name).stdout == "0\n"
    finally:
        run("umount", tmp_path)


@pytest.mark.parametrize("name", ["set-user-other", "set-group-other"])
def test_rights_that_nobody_gets(made, name):
    done = run("setpriv", "--no-new-privs", FAL, "run", "--", made / name)
    assert (done.returncode, done.stdout) == (0, "0\n")


def test_sudo_inside():
    line = refused(1, "--", "sudo", "tcpdump")
    assert line.endswith(
        "sudo starts its programs without LD_PRELOAD (write: sudo fal run -- PROGRAM)"
    )


def test_refusals(tmp_path):
    for words, message in (
        ((), "which PROGRAM?"),
        (("--",), "which PROGRAM?"),
        (("--group", "65536", "x"), "'65536' is not a number from 0 to 65535"),
        (("--group", "x", "x"), "'x' is not a number"),
        (("--fanout", "hsah", "x"), "hsah"),
        (("--driver", "dpdk", "x"), "'dpdk'"),
        (("-n", "0", "x"), "'0' is not a number"),
        (("--cpus", "4096", "x"), "CPU 4096 is not there"),
        (("--config", "", "x"), "argument --config: it names no file"),
        (("--device", "eth0", "x"), "--device is for --check"),
        (("--check",), "which PROGRAM?"),
    ):
        assert message in refused(2, *words)
    (tmp_path / "my.conf").write_text("caplen = 96\ngruop = 3\n")
    line = refused(1, "--config", tmp_path / "my.conf", "--", "true")
    assert line.startswith(f"fal: {tmp_path}/my.conf:2:1: there is no key 'gruop'")
    os.mkfifo(tmp_path / "fifo")
    line = refused(1, "--config", tmp_path / "fifo", "--", "true")
    assert line == f"fal: {tmp_path}/fifo can be read but once: name a file"
    line = refused(1, "--caplen", "0", "--", "true")
    assert line == "fal: PCAP_CAPLEN: '0' is no number from 1 to 262144"
    line = refused(1, "--fanout", "lb", "--", "true")
    assert line.startswith("fal: --fanout lb is of a group, and there is none (say --group G, ")


# ---- --check -------------------------------------------------------------------------------------


def checked(*words, code=0):
    done = run(FAL, "run", "--check", *words)
    assert done.returncode == code, done.stderr
    return done.stdout.splitlines() if code == 0 else done.stderr


def test_check_a_program(made, tmp_path):
    """By the loader's own word; it is not started."""
    (line,) = checked("--", "tcpdump", "-w", tmp_path / "not")
    assert line.endswith("/tcpdump links libpcap.so.0.8, in the place of which it has FAL's")
    assert not (tmp_path / "not").exists()
    (line,) = checked(made / "python")
    assert line.startswith(f"{sys.executable} links no libpcap: what it loads later, a Python")
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    odd.symlink_to("/usr/bin/env")
    words, strict = (FAL, "run", "--check", odd), os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    assert run(*words, text=False, env=strict).stdout.startswith(os.fsencode(odd))
    assert checked("static", code=1) == "fal: static: no such program\n"
    assert checked(made / "static", code=1).startswith(f"fal: {made}/static is static: ")
    assert checked(made / "cut", code=1).startswith(f"fal: {made}/cut is static: ")


def test_check_what_the_loader_does_not_take(made):
    """Here: a library of another's, which stands in the place of ours."""
    script = (
        "import os; from fal import reach\n"
        "os.environ['LD_PRELOAD'] = '/nosuch/libpcap.so.0.8'\n"
        "reach.means('/usr/bin/env')"
    )
    done = run(sys.executable, "-Pc", script)
    assert f"/usr/bin/env starts without {LIBRARY}: ERROR: ld.so: object '/nosuch" in done.stderr


def test_check_a_device(tmp_path, monkeypatch):
    """The options are the environment that they set; what the program is does not matter to it."""
    (tmp_path / "my.conf").write_text("caplen = 96\ngroup_eth0:1 = 23\nfanout@23 = lb\n")
    monkeypatch.setenv("PCAP_GROUP_eth0", "11")
    words = ("--config", tmp_path / "my.conf", "--driver", "fal", "--group", "7", "--device")

    def said(device, *more):
        rows = [line.split() for line in checked(*words, device, *more)]
        return {row[1]: (row[2], row[-1]) for row in rows if row[0] == device and len(row) > 2}

    file = f"{tmp_path}/my.conf"
    assert said("eth0")["engine"] == ("fal", "PCAP_DRIVER")
    assert said("eth0")["group"] == ("11", "PCAP_GROUP_eth0")
    assert said("eth1", "--", "tcpdump")["group"] == ("7", "PCAP_GROUP")
    virtual = said("eth0:1")
    assert virtual["group"] == ("23", f"{file}:2:16")
    assert virtual["fanout"] == ("lb", f"{file}:3:13")
    assert virtual["caplen"] == ("96", f"{file}:1:10")
    assert checked("--device", "pfring:eth0", code=1).startswith("fal: pfring: ")


def test_check_finds_what_the_join_would(tmp_path):
    """A filter that does not compile, and a mode that the kernel has not."""
    (tmp_path / "my.conf").write_text("filter@3 = udp prot 53\nfanout@4 = hash+inner\n")

    def said(device, group, code):
        return checked(
            *("--config", tmp_path / "my.conf", "--device", device, "--group", group), code=code
        )

    what = said("fal:eth0", "3", 1)
    assert what.startswith(f"fal: {tmp_path}/my.conf:1:12: filter 'udp prot 53': ")
    what = said("eth0", "4", 1)
    assert what.startswith(f"fal: {tmp_path}/my.conf:2:12: the kernel's fan-out has no 'hash+in")
    assert said("tpacket:eth0", "4", 1) == what
    assert said("fal:eth0", "4", 0)
    assert said("eth0", "5", 0)


# ---- copies --------------------------------------------------------------------------------------

# Says its pid and every signal, and ends by SIGTERM.  A word more is what it does first.
HEARS = """
import os, signal, sys
heard = {signal.Signals[f"SIG{n}"] for n in "HUP INT QUIT USR1 USR2 TERM CONT".split()}
signal.pthread_sigmask(signal.SIG_BLOCK, heard)
exec(*sys.argv[1:])
print(os.getpid(), flush=True)
while True:
    n = signal.sigwait(heard)
    print(n.name, flush=True)
    if n == signal.SIGTERM:
        sys.exit(3)
"""


class Copies:
    """`fal run` of copies; each writes to a file of its own."""

    def __init__(self, where, first, n, options):
        script = f"exec {sys.executable} -c '{HEARS}' '{first}' > {where}/{{i}}"
        self.files = [where / str(i) for i in range(n)]
        self.process = subprocess.Popen(
            [FAL, "run", "-n", str(n), *SHARED, "--", "sh", "-c", script],
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self.fds = []

    def wait_started(self):
        self.pids = [int(lines[0]) for lines in eventually(lambda: self.lines(1), 20)]
        self.fds = [os.pidfd_open(pid) for pid in self.pids]
        return self

    def alive(self):
        return len(self.fds) - len(select.select(self.fds, [], [], 0)[0])

    def remove(self):
        """End what a failed test left."""
        self.process.kill()
        self.process.wait()
        for fd in self.fds:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)
        self.process.stderr.close()

    def lines(self, at_least):
        """Return what each wrote, once each wrote so many lines; else nothing."""
        written = [f.read_text().splitlines() if f.exists() else [] for f in self.files]
        return written if all(len(lines) >= at_least for lines in written) else None

    def heard(self):
        """End them, and return the signals that each heard before."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 3
        written = self.lines(2)
        assert [lines.pop() for lines in written] == ["SIGTERM"] * len(written)
        return [lines[1:] for lines in written]


@pytest.fixture
def start(tmp_path):
    """Start copies: start("first what they do", n=3, options of Popen)."""
    started = []

    def start(first="pass", n=2, **options):
        started.append(Copies(tmp_path, first, n, options))
        return started[-1].wait_started()

    yield start
    for copies in started:
        copies.remove()


def state(pid):
    """Return the letter of a process's state; "" where it is no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_copies():
    script = "echo {i} $0 $1 {{i}} {j} $(sed -n s/Cpus_allowed_list://p /proc/self/status); cat"
    cpus = sorted(os.sched_getaffinity(0))[:2]
    done = run(
        *(FAL, "run", "-n", "3", *SHARED, "--cpus", ",".join(map(str, cpus))),
        *("--", "sh", "-c", script, "{i}{i}", "{}"),
        input="not for them",
    )
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == [
        f"{i} {i}{i} {{}} {{{i}}} {{j}} {cpus[i % len(cpus)]}" for i in range(3)
    ]
    *each, total = done.stderr.splitlines()
    for i, line in enumerate(each):
        assert re.fullmatch(rf"fal run: copy {i}: pid \d+, exit 0, \d+\.\d s", line)
    assert total == "fal run: 3 copies: 3 exit 0"
    one = ("-n", "1", "--cpus", str(cpus[-1]), "--", "sh", "-c", script, "{i}")
    done = run(FAL, "run", *one, input="input\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"0 0 {{0}} {{j}} {cpus[-1]}\ninput\n"


def test_one_dies_the_others_go_on(start):
    """The code is that of the first that failed."""
    copies = start(n=3)
    os.kill(copies.pids[1], signal.SIGKILL)
    eventually(lambda: not state(copies.pids[1]))  # it was waited for
    copies.process.send_signal(signal.SIGUSR1)
    eventually(lambda: all("SIGUSR1" in copies.files[i].read_text() for i in (0, 2)))
    copies.process.terminate()
    lines = copies.process.communicate(timeout=10)[1].splitlines()
    assert copies.process.returncode == 128 + signal.SIGKILL
    ends = [re.sub(r", \d+\.\d s$", "", line) for line in lines]
    how = ("exit 3", "signal 9 (Killed)", "exit 3")
    expected = [f"copy {i}: pid {copies.pids[i]}, {how[i]}" for i in range(3)]
    assert ends == [f"fal run: {line}" for line in expected] + [
        "fal run: 3 copies: 1 signal 9 (Killed), 2 exit 3"
    ]


def test_what_copies_leave_behind_is_theirs(tmp_path):
    """As a program that goes into the background does."""
    script = f"sleep 60 >/dev/null 2>&1 & echo $! > {tmp_path}/{{i}}"
    assert run(FAL, "run", "-n", "2", *SHARED, "--", "sh", "-c", script).returncode == 0
    pids = [int((tmp_path / str(i)).read_text()) for i in range(2)]
    states = [state(pid) for pid in pids]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert not {"", "Z"} & set(states)


PASSED = ("HUP", "INT", "QUIT", "USR1", "USR2", "CONT")


@pytest.mark.parametrize("to_group", [False, True])
def test_signals_are_passed_on_once(start, to_group):
    """To `fal run` alone, and to its process group, as a shell's `kill %1` does."""
    copies = start(start_new_session=True)
    for i, name in enumerate(PASSED):
        number = signal.Signals[f"SIG{name}"]
        (os.killpg if to_group else os.kill)(copies.process.pid, number)
        eventually(lambda i=i: copies.lines(2 + i))
    assert copies.heard() == [[f"SIG{name}" for name in PASSED]] * 2


def test_ignored_signals_stay_ignored(start):
    """As for `nohup fal run`."""
    copies = start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    copies.process.send_signal(signal.SIGHUP)
    copies.process.send_signal(signal.SIGUSR1)
    eventually(lambda: copies.lines(2))
    assert copies.heard() == [["SIGUSR1"]] * 2


@pytest.mark.parametrize("how", ["ignored", "blocked"])
def test_the_end_of_copies_is_heard(how):
    """Also where who started `fal run` cared for no child's."""

    def care_for_none():
        if how == "ignored":
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        else:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])

    words = (FAL, "run", "-n", "2", *SHARED, "--", "true")
    done = run(*words, preexec_fn=care_for_none, timeout=10)
    assert done.returncode == 0
    assert done.stderr.endswith("fal run: 2 copies: 2 exit 0\n")


def test_terminal(start):
    """Ctrl-C, Ctrl-\\ and Ctrl-Z of the terminal that it runs in."""
    ours, theirs = pty.openpty()
    copies = start(
        stdin=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    everyone = [copies.process.pid, *copies.pids]
    os.write(ours, b"\x03")
    eventually(lambda: copies.lines(2))
    os.write(ours, b"\x1c")
    eventually(lambda: copies.lines(3))
    os.write(ours, b"\x1a")
    eventually(lambda: all(state(pid) == "T" for pid in everyone))
    copies.process.send_signal(signal.SIGCONT)
    eventually(lambda: copies.lines(4))
    assert not any(state(pid) == "T" for pid in everyone)
    assert copies.heard() == [["SIGINT", "SIGQUIT", "SIGCONT"]] * 2
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    "first",
    ["pass", "os.setuid(65534)", "heard.discard(signal.SIGTERM)", "os.kill(os.getpid(), 19)"],
    ids=["plain", "as another user", "deaf to SIGTERM", "stopped"],
)
def test_they_die_with_us(start, first):
    copies = start(f"print(os.getpid(), flush=True); {first}")
    copies.process.kill()
    copies.process.stderr.read()  # until the guard has ended, too
    assert copies.alive() == 0
    deaf = first.startswith("heard")
    assert [lines[-1] == "SIGTERM" for lines in copies.lines(1)] == [not deaf] * 2


def test_no_copies_without_a_group(tmp_path, monkeypatch):
    """Each would get every packet.  What names one: an option, a variable, the file."""
    words = ("-n", "2", "--", "true")
    line = refused(1, *words)
    assert line.startswith("fal: -n 2 and no group: each copy would get every packet (")
    assert "--group" in line
    assert run(FAL, "run", *SHARED, *words).returncode == 0
    (tmp_path / "my.conf").write_text("group_eth0 = 7\n")
    assert run(FAL, "run", "--config", tmp_path / "my.conf", *words).returncode == 0
    monkeypatch.setenv("PCAP_GROUP_eth0", "7")
    assert run(FAL, "run", *words).returncode == 0


def test_one_that_cannot_be_started_ends_the_others():
    """Here: by an argument longer than the kernel takes."""
    script = (
        "from fal import copies\n"
        "print(copies.run('/bin/sleep', [['sleep', '60'], ['sleep', '9' * (1 << 17)]], []))"
    )
    done = run(sys.executable, "-Pc", script)  # it comes back when nobody holds the other end
    assert (done.returncode, done.stdout) == (1, "")
    assert "Argument list too long" in done.stderr
