"""FAL in ten seconds: a NIC, a poller, two groups of workers, and a death on the way.

As root: a veth pair in two namespaces of its own, and AF_XDP.  Else: packets made in memory.
Whatever it makes is gone when it ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from fal import stat

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
NIC, NET = (f"fal-demo-{end}-{os.getpid()}" for end in ("nic", "net"))  # namespaces
SECONDS = 10
PACKETS_PER_SECOND = 10000
MIX = ("--flows", "500", "--ipv6", "0.25", "--vlan", "0.3", "--sizes", "64-200")
console = Console(width=None if sys.stdout.isatty() else 120)


class Worker:
    """A worker process, and what it has said so far."""

    def __init__(self, device: str, group: int, mode: str) -> None:
        self.packets, self.flows = 0, dict[int, int]()
        self.killed = 0  # when, in ns since 1970
        self.process = subprocess.Popen(
            [sys.executable, HERE / "worker.py", device, str(group), mode], stdout=subprocess.PIPE
        )
        assert self.process.stdout
        self.process.stdout.readline()  # it has started
        self.listener = threading.Thread(target=self.listen)
        self.listener.start()

    def listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            news = json.loads(line)
            self.packets = news["packets"]
            self.flows |= {int(flow): ts for flow, ts in news["flows"].items()}

    def kill(self) -> None:
        self.killed = time.time_ns()
        self.process.kill()

    def end(self) -> None:
        self.process.wait(10)
        self.listener.join()


def run(*words: str) -> None:
    subprocess.run(words, check=True)


def veth(stack: ExitStack) -> tuple[list[str], list[str]]:
    """Make the NIC; returns the commands of its fal-poller and of who sends to it."""
    for namespace in (NIC, NET):
        run("ip", "netns", "add", namespace)
        stack.callback(run, "ip", "netns", "delete", namespace)
    run(
        *("ip", "link", "add", "nic0", "netns", NIC, "type", "veth"),
        *("peer", "name", "net0", "netns", NET),
    )
    for namespace, device in ((NIC, "nic0"), (NET, "net0")):
        # no packets but the demo's: without an IPv6 address the kernel asks for nothing
        run("ip", "-n", namespace, "link", "set", device, "addrgenmode", "none", "up")
    time.sleep(0.5)
    poller = ["ip", "netns", "exec", NIC, str(BIN / "fal-poller"), "nic0"]
    sender = ["ip", "netns", "exec", NET, str(BIN / "fal"), "gen", "net0", "--json"]
    return poller, [*sender, "--seconds", str(SECONDS), "--rate", str(PACKETS_PER_SECOND), *MIX]


def start_poller(command: list[str], stack: ExitStack) -> subprocess.Popen[str]:
    console.print("[bold]$", " ".join(command))
    poller = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    stack.callback(lambda: (poller.terminate(), poller.wait(10)))
    assert poller.stderr
    for line in poller.stderr:
        console.print(line.rstrip(), markup=False)
        if " ready " in line:
            return poller
    sys.exit("fal-poller did not start")


def show(name: str, seconds: float, victim: Worker) -> None:
    """Draw the live table, and kill a worker halfway."""
    directories, tables = [Path(os.environ["FAL_RUNTIME_DIR"])], stat.Tables()
    end = time.monotonic() + seconds
    with Live(console=console, refresh_per_second=4) as live:
        while time.monotonic() < end:
            reports = list(stat.look(directories, name))
            live.update(tables.draw(reports))
            time.sleep(1.0)
            if not victim.killed and time.monotonic() > end - seconds / 2:
                victim.kill()
                console.print(f"[red]kill -9 {victim.process.pid}[/] (a member of group 42)")


def books(report: dict[str, Any]) -> bool:
    """Print the books of each group, and whether they balance."""
    balanced = True
    for g in report["groups"]:
        members = g["members"] + [g["gone"] | {"in_ring": 0}]
        drops = sum(g["drops"].values())
        parts = {key: sum(m[key] for m in members) for key in ("consumed", "in_ring", "abandoned")}
        ok = g["received"] == g["filtered"] + g["delivered"] + drops
        ok &= g["delivered"] == sum(parts.values())
        balanced &= ok
        console.print(
            f"group {g['id']} ({g['mode']}): received {g['received']:,} ="
            f" filtered {g['filtered']:,} + delivered {g['delivered']:,} + dropped {drops:,};"
            f" delivered = consumed {parts['consumed']:,} + in ring {parts['in_ring']:,}"
            f" + abandoned {parts['abandoned']:,}: {'[green]balanced' if ok else '[red]WRONG'}"
        )
    return balanced


def flows(survivor: Worker, victim: Worker) -> bool:
    """Print whether any flow was on two workers, but for those that the dead one had."""
    both = survivor.flows.keys() & victim.flows.keys()
    early = [flow for flow in both if survivor.flows[flow] < victim.killed]
    console.print(
        f"{len(survivor.flows | victim.flows)} flows: {len(both)} moved from the dead worker to the"
        f" living one, {len(early)} were on two workers before:",
        "[red]WRONG" if early else "[green]no flow on two workers but for the moved buckets",
    )
    return not early


def demo(stack: ExitStack) -> bool:
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fal-demo-"))
    os.environ["FAL_RUNTIME_DIR"] = directory
    if os.geteuid() == 0:
        command, sender = veth(stack)
        name = "nic0"
    else:
        console.print("not root: packets made in memory instead of AF_XDP, flat out, so many drop")
        command, sender, name = [str(BIN / "fal-poller"), "demo", "--backend", "null"], [], "demo"
        command += ["--wait", "5"]
    poller = start_poller(command, stack)
    device = f"fal:{name}"
    hashed = [Worker(device, 42, "hash") for _ in range(2)]
    turns = [Worker(device, 7, "lb") for _ in range(3)]
    for worker in hashed + turns:
        stack.callback(worker.process.kill)
    traffic = subprocess.Popen(sender, stdout=subprocess.PIPE, text=True) if sender else None
    show(name, SECONDS + 1, hashed[1])
    sent = json.loads(traffic.communicate()[0])["sent"] if traffic else 0
    (report,) = stat.look([Path(directory)], name)
    poller.terminate()
    poller.wait(10)
    for worker in hashed + turns:
        worker.end()
    if sent:
        console.print(f"sent {sent:,}, on the link {report['link_received']:,}")
    return books(report) & flows(*hashed)


def main() -> int:
    with ExitStack() as stack:
        return 0 if demo(stack) else 1


if __name__ == "__main__":
    sys.exit(main())
