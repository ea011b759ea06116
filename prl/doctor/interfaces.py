"""The interfaces towards peers: what XDP and tc meet there."""

import re
from collections.abc import Iterator
from typing import Any, Final

from prl.bindings.programs import queue_refusal
from prl.config import Config
from prl.daemon.host.cable import address_trouble
from prl.doctor import host
from prl.doctor.finding import Finding, Verdict, judge
from prl.doctor.host import Interface
from prl.kernel.features import (
    INSTEAD_OF_NATIVE,
    Mode,
    best_mode,
    hardware_address,
    no_generic,
    no_native,
)

NATIVE_MTU_MAX: Final = 3498
"""Native XDP without multi-buffer wants packets that fit into one frame."""
WAITING_BYTES_MAX: Final = 65531
"""Longer packets cannot be copied to prld while they wait in the kernel (docs/carriers.md)."""
GATHERED_BYTES: Final = 65536
"""What GRO and TSO gather at most unless BIG TCP is switched on: their packets fit."""
_OURS: Final = re.compile(r"prl_(?!lab)")
_FEATURE = re.compile(r"^\s*(?P<name>[a-z0-9-]+): (?P<state>on|off)", re.MULTILINE)
_COMMAND: Final = re.compile(r"`([^`]+)`")
_GATHERING: Final = ("gro_max_size", "gro_ipv4_max_size")
_PRIVATE: Final = ("lo", "prlinj0", "prlhold0")
_QUEUE_MODULES: Final = "modprobe -a nfnetlink_queue nf_tables nft_queue"


def examine(config: Config | None) -> Iterator[Finding]:
    """Those of the configuration; without one, all that there are."""
    there = host.interfaces()
    up = [each.name for each in there.values() if each.is_up and each.name not in _PRIVATE]
    names = config.interfaces if config else up
    no_queue = queue_refusal()
    yield _mode(config, names, no_queue)
    if config is not None and config.mode == "mirror" and config.link.interface in there:
        yield _cable_address(config.link.interface)
    for name in names:
        if name not in there:
            continue  # the configuration's findings say it
        wanted = config.mode if config else "auto"
        mode = best_mode([name], no_queue)[0] if wanted == "auto" else wanted
        if mode == "native":
            yield _mtu(there[name])
        elif mode in {"kernel", "mirror"}:
            yield _longest(there[name])
        if mode == "mirror" and config is not None and config.link.interface in there:
            yield _cable(there[name], there[config.link.interface])
        yield _offloads(name, mode)
        yield _xdp(name, mode)
        yield _filters(name)
        if there[name].is_up is False and config is not None:
            yield judge(f"{name} is up", good=False, found="down", paste=f"ip link set {name} up")


def _mode(config: Config | None, names: list[str], no_queue: str) -> Finding:
    """What captures, as prld chooses it when it starts (prl/daemon/host/xdp.py)."""
    title = "carrier of input"
    if config is None:
        found = ", ".join(f"{name}: {best_mode([name], no_queue)[0]}" for name in names)
        return Finding(title, Verdict.OK, found or "no interface")
    if config.mode in {"kernel", "mirror"}:
        return judge(
            title,
            not no_queue,
            no_queue or f"{config.mode}: NFQUEUE, by configuration",
            'load nft_queue or xt_NFQUEUE, or take mode = "auto"',
            paste=_QUEUE_MODULES,
        )
    is_auto = config.mode == "auto"
    mode, why = best_mode(names, no_queue) if is_auto else (config.mode, "by configuration")
    if mode == "native" and (refusal := no_native(names)):
        return judge(title, good=False, found=refusal, remedy=INSTEAD_OF_NATIVE)
    trouble = no_generic(names)
    if mode == "generic" and trouble:
        paste = " && ".join(_COMMAND.findall(trouble))
        return judge(title, good=False, found=f"{mode}: {why}", remedy=trouble, paste=paste)
    if is_auto and mode == "native":
        why += f"; if it refuses: {(trouble or 'generic') if no_queue else 'kernel'}"
    return judge(
        title,
        not (is_auto and no_queue),
        f"{mode}: {why}" + (f" ({no_queue})" if is_auto and no_queue else ""),
        "where packets can wait in the kernel, other traffic pays nothing; load nft_queue or "
        "xt_NFQUEUE",
        paste=_QUEUE_MODULES,
        otherwise=Verdict.NOTE,
    )


def _mtu(interface: Interface) -> Finding:
    return judge(
        f"MTU of {interface.name} for native XDP",
        interface.mtu <= NATIVE_MTU_MAX,
        str(interface.mtu),
        f'at most {NATIVE_MTU_MAX}; or mode = "generic"',
        paste=f"ip link set {interface.name} mtu {NATIVE_MTU_MAX}",
        otherwise=Verdict.WARNING,
    )


def _cable(lan: Interface, link: Interface) -> Finding:
    """What the LAN's packets are cut to must fit (docs/mirror.md)."""
    return judge(
        f"MTU of {link.name} for what is mirrored of {lan.name}",
        link.mtu >= lan.mtu,
        str(link.mtu),
        f"at least {lan.mtu}, on both nodes",
        paste=f"ip link set {link.name} mtu {lan.mtu}",
    )


def _cable_address(link: str) -> Finding:
    trouble = address_trouble(link)
    return judge(
        f"MAC address of {link}",
        not trouble,
        hardware_address(link).hex(":"),
        trouble,
        paste=" && ".join(_COMMAND.findall(trouble)),
    )


def _longest(interface: Interface) -> Finding:
    """BIG TCP makes packets that are longer than what the kernel passes on."""
    name = interface.name
    found = host.ask("ip", "-j", "-d", "link", "show", "dev", name)
    sizes = {key: found[0].get(key, 0) for key in _GATHERING} if found else {}
    big = {key: size for key, size in sizes.items() if size > GATHERED_BYTES}
    wanted = dict.fromkeys(big, GATHERED_BYTES)
    if interface.mtu > WAITING_BYTES_MAX:
        big["mtu"], wanted["mtu"] = interface.mtu, WAITING_BYTES_MAX
    options = " ".join(f"{key} {size}" for key, size in wanted.items())
    return judge(
        f"longest packets of {name}",
        not big,
        ", ".join(f"{key} {size}" for key, size in big.items()) or "none too long",
        f"packets of more than {WAITING_BYTES_MAX} bytes are dropped; or another mode",
        paste=f"ip link set {name} {options}",
        otherwise=Verdict.WARNING,
    )


def _offloads(name: str, mode: Mode) -> Finding:
    """LRO makes packets that cannot be given to TCP a second time, nor to native XDP at all."""
    shown = host.run("ethtool", "-k", name)
    title = f"offloads of {name}"
    if shown is None:
        return Finding(title, Verdict.OK, "none that can be asked for")
    on = {found["name"] for found in _FEATURE.finditer(shown) if found["state"] == "on"}
    if "large-receive-offload" in on:
        return judge(
            title,
            good=False,
            found="LRO is on",
            remedy="LRO merges packets in a way that cannot be undone; GRO does the same properly",
            paste=f"ethtool -K {name} lro off",
            otherwise=Verdict.WARNING,
        )
    if "rx-gro-hw" in on and mode == "generic":
        words = "rx-gro-hw is on; attaching generic XDP turns it off, and packets come smaller then"
        return Finding(title, Verdict.OK, words)
    return Finding(title, Verdict.OK, "none in the way")


def _xdp(name: str, mode: Mode) -> Finding:
    """There is room for one; that packets wait in the kernel does not take it."""
    title = f"XDP programs on {name}"
    found = host.ask("ip", "-j", "-d", "link", "show", "dev", name)
    attached = found[0].get("xdp", {}) if found else {}
    programs = [attached["prog"], *attached.get("attached", ())] if "prog" in attached else []
    names = dict.fromkeys(_program_name(each) for each in programs)
    foreign = [each for each in names if not _is_ours(each)]
    in_front = mode in {"kernel", "mirror"}
    return judge(
        title,
        not foreign,
        f"somebody else's: {', '.join(foreign)}" if foreign else "none but prl's",
        "it has packets before prl; make sure that it lets those of service addresses by"
        if in_front
        else "there is room for one; find out whose it is, then take it away",
        paste=f"ip link set dev {name} xdp off && ip link set dev {name} xdpgeneric off",
        otherwise=Verdict.WARNING if in_front else Verdict.MISSING,
    )


def _program_name(program: dict[str, Any]) -> str:
    inner = program.get("prog", program)
    if "name" in inner:
        return str(inner["name"])
    shown = host.run("bpftool", "-j", "prog", "show", "id", str(inner.get("id", 0))) or ""
    found = re.search(r'"name":"([^"]*)"', shown)
    return found[1] if found else f"id {inner.get('id')}"


def _filters(name: str) -> Finding:
    """Somebody else's tc filters, clsact and tcx: they see what prl sees, or keep it from prl."""
    title = f"tc filters on {name}"
    foreign: list[str] = []
    paste: list[str] = []
    for side in ("ingress", "egress"):
        for each in host.ask("tc", "-j", "filter", "show", "dev", name, side):
            options = each.get("options", {})
            label = options.get("bpf_name", "")
            if "ht_divisor" in options or not options.keys() & {"handle", "fh"}:
                continue  # a line that only says that there is a priority
            if _is_ours(str(label)):
                continue
            where = f"at {side}, pref {each.get('pref')}"
            foreign.append(" ".join(filter(None, (each.get("kind"), label, where))))
            paste.append(f"tc filter del dev {name} {side} pref {each.get('pref')}")
    shown = host.ask("bpftool", "-j", "net", "show", "dev", name)
    foreign += [
        f"{each['kind']} {each.get('name', '?')}"
        for each in (shown[0].get("tc", ()) if shown else ())
        if str(each.get("kind", "")).startswith("tcx") and not _is_ours(each.get("name", ""))
    ]
    return judge(
        title,
        not foreign,
        "; ".join(foreign) if foreign else "none but prl's",
        "a filter of somebody else's may take packets from prl, or let a standby's out; make sure "
        "that it does not, or take it away",
        paste=" && ".join(dict.fromkeys(paste)),
        otherwise=Verdict.WARNING,
    )


def _is_ours(name: str) -> bool:
    return bool(_OURS.match(name))
