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
from fal.groups import mode_name

DROPS = {"ring_full": lib.FAL_DROP_RING_FULL, "no_member": lib.FAL_DROP_NO_MEMBER}
PIPED_WIDTH = 200  # where no terminal says how wide it is: no figure is cut


def text(field: Any) -> str:
    return str(ffi.string(field).decode(errors="replace"))


def member_report(m: Any) -> dict[str, Any]:
    return {
        "number": m.number if m.number >= 0 else None,
        "pid": m.pid,
        "started": m.number != -1,
        "left": m.number == -2,
        "delivered": m.delivered,
        "consumed": m.consumed,
        "in_ring": m.delivered - m.consumed - m.abandoned,
        "abandoned": m.abandoned,
        "dropped": m.dropped,
        "ring": m.ring,
    }


def group_report(g: Any, members: list[dict[str, Any]]) -> dict[str, Any]:
    drops = {cause: g.drops[i] for cause, i in DROPS.items()}
    return {
        "id": g.id,
        "mode": mode_name(g.mode),
        "received": g.received,
        "filtered": g.filtered,
        "delivered": g.delivered,
        "app_received": g.gone_consumed + sum(m["consumed"] for m in members),
        "app_dropped": sum(drops.values())
        + g.gone_abandoned
        + sum(m["abandoned"] for m in members),
        "drops": drops,
        "gone": {
            "delivered": g.gone_delivered,
            "consumed": g.gone_consumed,
            "abandoned": g.gone_abandoned,
        },
        "members": members,
    }


def report(segment: status.Status) -> dict[str, Any]:
    """Return what `fal stat --json` prints of one poller."""
    view = segment.view
    now = segment.poller(0)
    members: dict[int, list[Any]] = {}
    for m in now.member:
        if m.socket:
            members.setdefault(m.group, []).append(m)
    groups, sockets = [], []
    for index, g in enumerate(now.group):
        if g.live != 1:
            continue
        of_group = sorted(members.get(index, []), key=lambda m: (m.number < 0, m.number))
        reports = [member_report(m) for m in of_group]
        if g.id < 0:
            sockets += [m | {"number": None} for m in reports]
        else:
            groups.append(group_report(g, reports))
    return {
        "name": text(view.name),
        "device": text(view.device),
        "backend": text(view.backend),
        "mode": text(view.mode),
        "zero_copy": bool(view.zero_copy),
        "hash_seed": view.hash_seed,
        "page_size": view.page_size,
        "frames": view.frames,
        "frames_free": now.frames_free,
        "pid": view.pid,
        "state": "running" if segment.running else "crashed",
        "link_received": now.received + now.if_dropped,
        "if_dropped": now.if_dropped,
        "queues": [{"id": q.id, "received": q.received} for q in list(now.queue)[: view.queues]],
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
        total = {key: sum(m[key] for m in parts) for key in ("consumed", "in_ring", "abandoned")}
        total |= {"pid": "", "delivered": g["delivered"], "dropped": sum(g["drops"].values())}
        yield (str(g["id"]), g["mode"], "all"), total
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
            f" frames free {r['frames_free']:,} of {r['frames']:,}"
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
