"""`fal stat`: what the status segments say, and nothing else: it asks no poller."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from fal import runtime, status
from fal.bindings import ffi, lib
from fal.modes import fanout_of

DROPS = {"ring_full": lib.FAL_DROP_RING_FULL, "no_member": lib.FAL_DROP_NO_MEMBER}
PIPED_WIDTH = 200  # where no terminal says how wide it is: no figure is cut


def text(field: Any) -> str:
    return str(ffi.string(field).decode(errors="replace"))


def total(records: list[Any], *counters: str) -> dict[str, int]:
    """Sum up what the pollers counted of one member, or one group."""
    return {name: sum(getattr(record, name) for record in records) for name in counters}


def member_report(records: list[Any]) -> dict[str, Any]:
    m = records[0]
    counted = total(records, "delivered", "consumed", "abandoned", "dropped")
    return {
        "number": m.number if m.number >= 0 else None,
        "pid": m.pid,
        "started": m.number != -1,
        "left": m.number == -2,
        **counted,
        "in_ring": counted["delivered"] - counted["consumed"] - counted["abandoned"],
        "ring": m.ring,
    }


def group_report(records: list[Any], members: list[dict[str, Any]]) -> dict[str, Any]:
    drops = {cause: sum(g.drops[i] for g in records) for cause, i in DROPS.items()}
    gone = total(records, "gone_delivered", "gone_consumed", "gone_abandoned")
    return {
        "id": records[0].id,
        "mode": str(fanout_of(records[0].fanout)),
        **total(records, "received", "filtered", "delivered"),
        "app_received": gone["gone_consumed"] + sum(m["consumed"] for m in members),
        "app_dropped": sum(drops.values())
        + gone["gone_abandoned"]
        + sum(m["abandoned"] for m in members),
        "drops": drops,
        "gone": {name.removeprefix("gone_"): n for name, n in gone.items()},
        "members": members,
    }


def report(segment: status.Status) -> dict[str, Any]:
    """Return what `fal stat --json` prints of one fal-poller: its pollers summed up."""
    view = segment.view
    pollers = [segment.poller(i) for i in range(view.pollers)]
    found: dict[int, list[Any]] = {}  # record of a group -> what each poller counted of it
    members: dict[int, dict[tuple[int, int], list[Any]]] = {}  # the same of its members
    for now in pollers:
        for index, g in enumerate(now.group):
            if g.live == 1:
                found.setdefault(index, []).append(g)
        for index, m in enumerate(now.member):
            if m.socket:
                of_group = members.setdefault(m.group, {})
                of_group.setdefault((index, m.socket), []).append(m)
    groups, sockets = [], []
    for index, records in found.items():
        reports = [member_report(m) for m in members.get(index, {}).values()]
        if records[0].id < 0:
            sockets += [m | {"number": None} for m in reports]
        else:
            reports.sort(key=lambda m: (m["number"] is None, m["left"], m["number"] or 0))
            groups.append(group_report(records, reports))
    if_dropped = sum(now.if_dropped for now in pollers)
    return {
        "name": text(view.name),
        "device": text(view.device),
        "backend": text(view.backend),
        "mode": text(view.mode),
        "zero_copy": bool(view.zero_copy),
        "chains": bool(view.chains),
        "hash_seed": view.hash_seed,
        "page_size": view.page_size,
        "frames": view.frames,
        "frames_free": sum(now.frames_free for now in pollers),
        "pid": view.pid,
        "state": "running" if segment.running else "crashed",
        "link_received": sum(now.received for now in pollers) + if_dropped,
        "if_dropped": if_dropped,
        **total(pollers, "sent", "send_failed", "unparsed", "defrag_evicted"),
        "cpus": [{"cpu": p.cpu, "node": p.node, "received": p.received} for p in pollers],
        "queues": sorted(
            (
                {"id": q.id, "received": q.received}
                for now in pollers
                for q in now.queue[0 : now.queues]
            ),
            key=lambda q: q["id"],
        ),
        "sockets": sockets,
        "groups": sorted(groups, key=lambda g: g["id"]),
    }


def look(directories: list[Path], name: str | None) -> Iterator[dict[str, Any]]:
    """Report every poller of these directories, or those of that name."""
    for directory in directories:
        for found in status.names(directory):
            if name not in (None, found):
                continue
            try:
                with closing(status.open_existing(directory, found)) as segment:
                    if segment.ready:
                        yield report(segment)
            except FileNotFoundError:
                pass  # it has just ended
            except OSError as e:
                print(f"fal: {found}: {e}", file=sys.stderr)


def rows(r: dict[str, Any]) -> Iterator[tuple[tuple[str, str, str], dict[str, Any]]]:
    """Give (group, mode, member) and the counters of each line of a poller's table."""
    for m in r["sockets"]:
        yield ("-", "all", str(m["pid"])), m
    for g in r["groups"]:
        parts = [*g["members"], g["gone"] | {"in_ring": 0}]
        whole = {key: sum(m[key] for m in parts) for key in ("consumed", "in_ring", "abandoned")}
        whole |= {"pid": "", "delivered": g["delivered"], "dropped": sum(g["drops"].values())}
        yield (str(g["id"]), g["mode"], "all"), whole
        for m in g["members"]:
            number = "left" if m["left"] else "admitted" if m["number"] is None else m["number"]
            yield (str(g["id"]), g["mode"], str(number)), m
        if g["gone"]["delivered"]:
            yield (
                (str(g["id"]), g["mode"], "gone"),
                g["gone"] | {"pid": "", "in_ring": 0, "dropped": 0},
            )


class Tables:
    """Draws reports, with rates since it drew before."""

    def __init__(self) -> None:
        self.before: dict[int, dict[str, Any]] = {}  # by pid: names may be the same elsewhere
        self.at = time.monotonic()

    def draw(self, reports: list[dict[str, Any]]) -> Group:
        now = time.monotonic()
        drawn: list[Any] = []
        for r in reports:
            drawn += self.draw_one(r, self.before.get(r["pid"], r), max(now - self.at, 1e-3))
        self.before, self.at = {r["pid"]: r for r in reports}, now
        return Group(*drawn)

    def draw_one(self, r: dict[str, Any], old: dict[str, Any], seconds: float) -> list[Any]:
        rate = (r["link_received"] - old["link_received"]) / seconds
        head = (
            f"[bold]{r['name']}[/] {r['device']} {r['backend']} {r['mode']} pid {r['pid']}"
            f" {'[green]running' if r['state'] == 'running' else '[red]crashed'}[/]"
            f"  link {r['link_received']:,} ({rate:,.0f}/s), interface dropped {r['if_dropped']:,},"
            f" unparsed {r['unparsed']:,}, defrag evicted {r['defrag_evicted']:,},"
            f" frames free {r['frames_free']:,} of {r['frames']:,}"
            f" on node {', '.join(str(c['node']) for c in r['cpus'])}"
        )
        table = Table("group", "mode", "member", "pid", box=None, pad_edge=False)
        for column in ("delivered", "per s", "consumed", "in ring", "abandoned", "dropped"):
            table.add_column(column, justify="right")
        was = {key: m["delivered"] for key, m in rows(old)}
        for key, m in rows(r):
            speed = (m["delivered"] - was.get(key, m["delivered"])) / seconds
            counters = (m["delivered"], speed, m["consumed"], m["in_ring"], m["abandoned"])
            table.add_row(*key, str(m["pid"]), *(f"{n:,.0f}" for n in (*counters, m["dropped"])))
        return [head, table, ""]


def watch(find: Any, console: Console) -> int:
    """Draw the table every second, until interrupted or until there is no poller."""
    tables = Tables()
    with Live(console=console, refresh_per_second=4) as live:
        while reports := list(find()):
            live.update(tables.draw(reports))
            time.sleep(1.0)
    return 0


def run(options: argparse.Namespace) -> int:
    directories = runtime.directories()

    def find() -> Iterator[dict[str, Any]]:
        return look(directories, options.name)

    reports = list(find())
    if not reports:
        who = f"no fal-poller {options.name}" if options.name else "no fal-poller"
        print(f"fal: {who} runs or crashed here (start one: fal-poller DEV)", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"pollers": reports}, indent=2))
        return 0
    console = Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)
    if options.watch:
        return watch(find, console)
    console.print(Tables().draw(reports))
    return 0


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "stat",
        help="show what the pollers count",
        description="Show what the fal-pollers count: running ones, and what crashed ones left.",
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of one poller (default: all)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="for programs")
    how.add_argument("--watch", action="store_true", help="a live table, every second")
    parser.set_defaults(run=run)
