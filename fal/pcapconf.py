"""What the pcap library's file and environment come to for a device, and where each thing is said.

It is the library's own reading of them (fal/native/pcap/config.h), of this process's environment.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from fal import bpf
from fal.bindings import ffi, lib
from fal.errors import FalError, c_string, checked

ENGINES = {
    lib.FAL_PCAP_FAL: "fal",
    lib.FAL_PCAP_TPACKET: "tpacket",
    lib.FAL_PCAP_KERNEL: "libpcap's",
    lib.FAL_PCAP_PFRING: "pfring",
    lib.FAL_PCAP_ZC: "zc",
    lib.FAL_PCAP_PFQ: "pfq",
}
OF_THE_NIC = {
    lib.FAL_PCAP_CHANNELS: "channels",
    lib.FAL_PCAP_RX_CHANNELS: "rx channels",
    lib.FAL_PCAP_TX_CHANNELS: "tx channels",
    lib.FAL_PCAP_COMBINED_CHANNELS: "combined channels",
    lib.FAL_PCAP_OTHER_CHANNELS: "other channels",
    lib.FAL_PCAP_IRQ: "irq of channel",
}


class Setting(NamedTuple):
    """One thing that holds for a device."""

    device: str  # "eth0", of a virtual device "eth0:1"
    name: str
    value: str
    origin: str  # FILE:LINE:COLUMN, a variable, or "" where nothing is said


def _text(native: Any) -> str:
    return str(ffi.string(native).decode(errors="backslashreplace"))


def _origin(setting: Any) -> str:
    if setting == ffi.NULL:
        return ""
    where = f":{setting.line}:{setting.column}" if setting.line else ""
    return _text(setting.source) + where


def _read() -> Any:
    err = ffi.new("struct fal_error *")
    return ffi.gc(checked(lib.fal_pcap_config_read(err), err), lib.fal_pcap_config_free)


def _all(config: Any) -> Iterator[Any]:
    i = 0
    while setting := lib.fal_pcap_config_setting(config, i):
        yield setting
        i += 1


def _engine(config: Any, name: str, engine: int) -> tuple[str, str]:
    """Return the engine's word, and what chose it."""
    prefixed = name.startswith(f"{ENGINES[engine]}:")
    drivers = (_origin(s) for s in _all(config) if s.key == lib.FAL_PCAP_DRIVER)
    return ENGINES[engine], "the device's name" if prefixed else next(drivers, "")


def _check(out: Any, engine: int) -> None:
    """Refuse what could be said of a group, but would fail when it is joined."""
    setting, err = out.from_filter, ffi.new("struct fal_error *")
    try:
        if setting:
            bpf.compile(_text(out.filter))
        setting = out.from_fanout
        if setting and engine in (lib.FAL_PCAP_TPACKET, lib.FAL_PCAP_KERNEL):
            group = ffi.new("struct fal_kernel_group *", {"mode": out.fanout})
            checked(lib.fal_kernel_group_check(group, err), err)
    except FalError as e:
        checked(lib.fal_pcap_setting_wrong(setting, c_string(str(e)), err), err)


def _of_device(config: Any, device: Any, engine: int) -> Iterator[tuple[str, str, str]]:
    out, err = ffi.new("struct fal_pcap_settings *"), ffi.new("struct fal_error *")
    checked(lib.fal_pcap_config_for(config, device.key, engine, out, err), err)
    _check(out, engine)
    group = str(out.group) if out.group >= 0 else "none"
    fanout = "none" if out.group < 0 else "as the group is, hash for a new one"
    yield "group", group, _origin(out.from_group)
    yield "fanout", _text(out.fanout) or fanout, _origin(out.from_fanout)
    yield "filter", _text(out.filter) or "none", _origin(out.from_filter)
    yield "caplen", str(out.caplen or "as the program says"), _origin(out.from_caplen)
    yield "ring", str(out.ring or "the default"), _origin(out.from_ring)
    for setting in _all(config):
        if setting.key in OF_THE_NIC and lib.fal_pcap_setting_names(setting, device.name):
            index = f" {setting.index}" if setting.index >= 0 else ""
            yield OF_THE_NIC[setting.key] + index, _text(setting.value), _origin(setting)


def names_a_group() -> bool:
    """Return whether file or environment name any group; FalError: they are wrong."""
    return any(setting.key == lib.FAL_PCAP_GROUP for setting in _all(_read()))


def settings(name: str) -> list[Setting]:
    """Return what holds for a device, or for each of several, named as a pcap program would.

    FalError: the file or the environment is wrong, or asks for what is not there.
    """
    err, parsed = ffi.new("struct fal_error *"), ffi.new("struct fal_pcap_name *")
    config = _read()
    driver = lib.fal_pcap_config_driver(config)
    checked(lib.fal_pcap_name_parse(c_string(name), driver, parsed, err), err)
    checked(lib.fal_pcap_engine_check(parsed.engine, err), err)
    found = []
    for device in parsed.device[0 : parsed.devices]:
        key = _text(device.key)
        found.append(Setting(key, "engine", *_engine(config, name, parsed.engine)))
        found += (Setting(key, *said) for said in _of_device(config, device, parsed.engine))
    return found


def table(name: str) -> str:
    """Return the same as text, a line each."""
    rows = [("DEVICE", "WHAT", "VALUE", "SAID BY"), *settings(name)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = (
        "  ".join((*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
