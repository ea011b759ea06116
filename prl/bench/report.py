"""What a run found: as facts, as text, and as a page with pictures."""

import os
import platform
import ssl
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from prl import __version__
from prl.bench import svg
from prl.bench.run import Part
from prl.bench.targets import LIMITS, measured, verdicts

_CPUINFO = Path("/proc/cpuinfo")
_TREE = Path(__file__).resolve().parents[2]


def machine() -> dict[str, Any]:
    """What was measured, where and when; asked before anything is measured, for the load's sake."""
    models = [
        line.partition(":")[2].strip()
        for line in _CPUINFO.read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "prl": __version__,
        "commit": _commit(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "cpu": models[0] if models else "unknown",
        "openssl": ssl.OPENSSL_VERSION,
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "load": os.getloadavg()[0],
    }


def _commit() -> str:
    """Of the tree that prl runs from; nothing for a package. What is not committed is told."""
    if not (_TREE / ".git").exists():
        return ""
    # A tree of another user's: git does not read it unless it is told that it is safe.
    argv = ["git", "-c", f"safe.directory={_TREE}", "-C", str(_TREE)]
    try:
        found = subprocess.run(
            [*argv, "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


def _where(found: dict[str, Any]) -> str:
    """One sentence of a run: of what, where and when."""
    where = found["machine"]
    commit = f" ({where['commit']})" if where["commit"] else ""
    return (
        f"{'Quick' if found['quick'] else 'Full'} run of prl {where['prl']}{commit}, "
        f"{where['date']}: Linux {where['kernel']}, {where['architecture']}, "
        f"{where['cpus']} CPUs ({where['cpu']}), {where['openssl']}, "
        f"load {where['load']:.2f} at its start"
    )


def facts(
    name: str, parts: Sequence[Part], *, quick: bool, where: dict[str, Any]
) -> dict[str, Any]:
    """All that was found. ``targets`` has every T-figure of SPEC section 9 for ``all``."""
    figures = {key: value for part in parts for key, value in part.figures.items()}
    rows = verdicts(figures, quick=quick)
    return {
        "bench": name,
        "quick": quick,
        "machine": where,
        "is_whole": all(part.is_whole for part in parts),
        "targets": rows if name == "all" else measured(rows),
        "parts": {part.name: part.facts | {"notes": part.notes} for part in parts},
    }


def text(found: dict[str, Any]) -> str:
    """The figures as a person reads them."""
    lines = [_where(found), ""]
    for name, part in found["parts"].items():
        for title, series in part.items():
            if not isinstance(series, dict) or not series:
                continue
            lines.append(f"{name}: {title.replace('_', ' ')}{_unit(series)}")
            lines += [
                f"  {way:<24} {_value(value)}" for way, value in series.items() if way != "unit"
            ]
        lines += [f"{name}: {note}" for note in part["notes"]]
    lines.append("")
    lines += [
        f"{row['id']:<4} {row['verdict']:<13} {_measured(row):>14}  "
        f"goal {row['goal']:<18} {row['what']}"
        for row in found["targets"]
    ]
    return "\n".join(lines)


def _unit(series: dict[str, Any]) -> str:
    return f", {series['unit']}" if "unit" in series else ""


def _value(value: Any) -> str:
    if isinstance(value, dict) and "median" in value:
        return f"{value['median']:<10g} ({value['low']:g} … {value['high']:g})"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(one)}" for name, one in value.items())
    return str(value)


def _measured(row: dict[str, Any]) -> str:
    return "-" if row["measured"] is None else f"{row['measured']:g} {row['unit']}".rstrip()


def page(found: dict[str, Any], parts: Sequence[Part]) -> str:
    """One HTML file, with the pictures in it."""
    rows = "".join(
        f'<tr class="{row["verdict"].replace(" ", "-")}"><td>{row["id"]}</td>'
        f"<td>{escape(row['what'])}</td><td>{escape(row['goal'])}</td>"
        f"<td>{escape(_measured(row))}</td><td>{row['verdict']}</td></tr>"
        for row in found["targets"]
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>prlctl bench</title>'
        "<style>body{font-family:sans-serif;margin:2em auto;max-width:62em}"
        "table{border-collapse:collapse}td,th{padding:.25em .8em;text-align:left;"
        "border-bottom:1px solid #ddd}.met td:last-child{color:#2a7d2a}"
        ".missed td:last-child{color:#b00}pre{background:#f6f6f6;padding:1em;overflow:auto}</style>"
        f"</head><body><h1>prlctl bench {escape(found['bench'])}</h1>"
        f"<p>{escape(_where(found))}. Ratios are medians over interleaved rounds.</p>"
        "<table><tr><th>id</th><th>what</th><th>goal</th><th>measured</th><th></th></tr>"
        f"{rows}</table>{''.join(map(_pictures, parts))}"
        f"<h2>All figures</h2><pre>{escape(text(found))}</pre></body></html>\n"
    )


def _pictures(part: Part) -> str:
    drawn = "".join(_draw(name, data) for name, data in part.curves.items())
    return f"<h2>{escape(part.name)}</h2>{drawn}" if drawn else ""


def _draw(name: str, data: dict[str, Any]) -> str:
    match name:
        case "cdf_us":
            lines = {way: _cdf(values) for way, values in data.items()}
            return svg.curves(
                "64 B ping-pong: share of round trips that took at most …",
                lines,
                x_label="µs (logarithmic)",
                y_label="% of round trips",
                log_x=True,
            )
        case "bars_gbit_s":
            return svg.bars("Bulk, peer to server", data, unit="Gbit/s")
        case "growth_ns":
            return svg.curves(
                "CPU of both datapaths, per packet",
                {way: [(flows, ns / 1000) for flows, ns in line] for way, line in data.items()},
                x_label="flows (logarithmic)",
                y_label="µs",
                log_x=True,
            )
        case "pauses_ms":
            goals = [LIMITS["t12_median_ms"], LIMITS["t12_p99_ms"]]
            return svg.bars("Pause at the peer, each failure", data, unit="ms", marks=goals)
        case _:
            return ""


def _cdf(values: Sequence[float]) -> list[tuple[float, float]]:
    """Quantiles at equal steps as points; the slowest percent would squeeze the rest."""
    last = len(values) - 1
    return [(max(value, 1.0), 100 * step / last) for step, value in enumerate(values[:-1])]
