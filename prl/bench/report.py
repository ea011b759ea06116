"""What a run found: as facts, as text, and as a page with pictures."""

import platform
from collections.abc import Sequence
from html import escape
from os import cpu_count
from pathlib import Path
from typing import Any

from prl.bench import svg
from prl.bench.run import Part
from prl.bench.targets import measured, verdicts

_CPUINFO = Path("/proc/cpuinfo")


def machine() -> dict[str, Any]:
    """Where it was measured."""
    models = [
        line.partition(":")[2].strip()
        for line in _CPUINFO.read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpus": cpu_count(),
        "cpu": models[0] if models else "unknown",
    }


def facts(name: str, parts: Sequence[Part], *, quick: bool) -> dict[str, Any]:
    """All that was found. ``targets`` has every T-figure of SPEC section 9 for ``all``."""
    figures = {key: value for part in parts for key, value in part.figures.items()}
    rows = verdicts(figures)
    return {
        "bench": name,
        "quick": quick,
        "machine": machine(),
        "targets": rows if name == "all" else measured(rows),
        "parts": {part.name: part.facts | {"notes": part.notes} for part in parts},
    }


def text(found: dict[str, Any]) -> str:
    """The figures as a person reads them."""
    lines = []
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
        f"{row['id']:<4} {_mark(row):<9} {_measured(row):>14}  goal {row['goal']:<18} {row['what']}"
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


def _mark(row: dict[str, Any]) -> str:
    if row["measured"] is None:
        return "no figure"
    return "met" if row["met"] else "missed"


def page(found: dict[str, Any], parts: Sequence[Part]) -> str:
    """One HTML file, with the pictures in it."""
    rows = "".join(
        f'<tr class="{_mark(row).replace(" ", "-")}"><td>{row["id"]}</td>'
        f"<td>{escape(row['what'])}</td><td>{escape(row['goal'])}</td>"
        f"<td>{escape(_measured(row))}</td><td>{_mark(row)}</td></tr>"
        for row in found["targets"]
    )
    where = found["machine"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>prlctl bench</title>'
        "<style>body{font-family:sans-serif;margin:2em auto;max-width:62em}"
        "table{border-collapse:collapse}td,th{padding:.25em .8em;text-align:left;"
        "border-bottom:1px solid #ddd}.met td:last-child{color:#2a7d2a}"
        ".missed td:last-child{color:#b00}pre{background:#f6f6f6;padding:1em;overflow:auto}</style>"
        f"</head><body><h1>prlctl bench {escape(found['bench'])}</h1>"
        f"<p>{'Quick run' if found['quick'] else 'Full run'} on Linux {escape(where['kernel'])}, "
        f"{where['cpus']} CPUs ({escape(where['cpu'])}). Ratios are medians over interleaved "
        "rounds.</p>"
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
            return svg.bars("Pause at the peer, each failure", data, unit="ms", marks=[300, 1000])
        case _:
            return ""


def _cdf(values: Sequence[float]) -> list[tuple[float, float]]:
    """Quantiles at equal steps as points; the slowest percent would squeeze the rest."""
    last = len(values) - 1
    return [(max(value, 1.0), 100 * step / last) for step, value in enumerate(values[:-1])]
