"""Several copies of one program: started together, told every signal that comes, and waited for.

They are a process group of their own, so that what the terminal sends reaches each once, through
us.  Its leader is the guard, a child that waits for our death, and then ends them.  (The kernel's
own means, PR_SET_PDEATHSIG, is forgotten when a program changes its user, as tcpdump does.)
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fal import ending

PASSED = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGTSTP, signal.SIGCONT),
)
PATIENCE = 1.0  # seconds from SIGTERM to SIGKILL for copies that have lost us


@dataclass
class Copy:
    number: int
    pid: int
    begin: float  # by time.monotonic()
    seconds: float = 0.0  # how long it ran
    code: int | None = None  # how it ended: its exit code, or -N by signal N

    def look(self) -> None:
        """See whether it has ended."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.seconds = time.monotonic() - self.begin
            self.code = os.waitstatus_to_exitcode(status)

    @property
    def end(self) -> str:
        code = self.code or 0
        return f"exit {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"


@contextmanager
def guarded() -> Iterator[int]:
    """Give a new process group; its processes die if we do before the end."""
    alive, held = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED)  # the guard goes on by all of them
    guard = os.fork()
    if not guard:
        try:
            os.setpgid(0, 0)
            os.close(held)
            os.read(alive, 1)  # until nobody holds the other end
            os.killpg(0, signal.SIGTERM)
            time.sleep(PATIENCE)
        finally:
            os.killpg(0, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.setpgid(guard, guard)
    os.close(alive)
    try:
        yield guard
        os.kill(guard, signal.SIGKILL)  # it alone
    finally:
        os.close(held)
        os.waitpid(guard, 0)


def started(
    path: str, commands: Sequence[list[str]], cpus: Sequence[int], group: int
) -> Iterator[Copy]:
    no_input = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    ours = os.sched_getaffinity(0)
    for i, words in enumerate(commands):
        if cpus:
            os.sched_setaffinity(0, [cpus[i % len(cpus)]])
        pid = os.posix_spawn(path, words, os.environ, file_actions=no_input, setpgroup=group)
        yield Copy(i, pid, time.monotonic())
    os.sched_setaffinity(0, ours)


def run(path: str, commands: Sequence[list[str]], cpus: Sequence[int]) -> int:
    """Run a copy of a program for each command line, to the end of all, and say how each ended.

    cpus: where they are pinned, in turn; empty: they are not.
    Returns 0, or how the first ended that did not end with 0, as a shell has it.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever started us may have it ignored,
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])  # or blocked
    wanted = [n for n in PASSED if signal.getsignal(n) != signal.SIG_IGN]
    ends: list[Copy] = []
    with guarded() as group, ending.heard([*wanted, signal.SIGCHLD]) as told:
        running = list(started(path, commands, cpus, group))
        while running:
            for number in told.recv(4096):
                if number == signal.SIGCHLD:
                    for copy in running:
                        copy.look()
                    ends += [copy for copy in running if copy.code is not None]
                    running = [copy for copy in running if copy.code is None]
                    continue
                os.killpg(group, number)
                if number == signal.SIGTSTP:  # SIGCONT will be passed on in turn
                    os.kill(os.getpid(), signal.SIGSTOP)
    for copy in sorted(ends, key=lambda copy: copy.number):
        about = f"copy {copy.number}: pid {copy.pid}, {copy.end}, {copy.seconds:.1f} s"
        print(f"fal run: {about}", file=sys.stderr)
    sums = ", ".join(f"{n} {end}" for end, n in Counter(copy.end for copy in ends).items())
    print(f"fal run: {len(ends)} copies: {sums}", file=sys.stderr)
    first = next((copy.code for copy in ends if copy.code), 0)
    return first if first >= 0 else 128 - first
