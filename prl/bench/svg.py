"""A small writer of SVG pictures: curves and bars, legible as they are, without a library."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 760, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 180, 40, 50
_COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#b07aa1", "#9c755f", "#edc948")
_STEPS = (1, 2, 5, 10)
_TICKS = 5
_BAR_SHARE = 0.7


def curves(
    title: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
) -> str:
    """Lines through points; ``log_x``: a logarithmic axis, for which every x must be positive."""
    points = [point for line in lines.values() for point in line]
    if not points:
        return _empty(title)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    across = _Axis(min(xs), max(xs), _LEFT, WIDTH - _RIGHT, log=log_x)
    up = _Axis(0, max(ys), HEIGHT - _BOTTOM, _TOP)
    parts = [*_frame(title, x_label, y_label), *_x_ticks(across), *_y_ticks(up)]
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in line)
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.8" points="{path}"/>'
        )
        parts.append(_legend(number, name, colour))
    return _picture(parts)


def bars(title: str, values: Mapping[str, float], *, unit: str, marks: Iterable[float] = ()) -> str:
    """One bar a value, with its number; ``marks`` are dashed lines to compare with."""
    if not values:
        return _empty(title)
    marks = list(marks)
    across = _Axis(0, max([*values.values(), *marks]), _LEFT + 110, WIDTH - 70)
    height = (HEIGHT - _TOP - _BOTTOM) / len(values)
    parts = [_title(title), *_x_ticks(across), _text(WIDTH / 2, HEIGHT - 10, unit)]
    for number, (name, value) in enumerate(values.items()):
        top = _TOP + number * height
        middle = top + height * _BAR_SHARE / 2 + 4
        colour = _COLOURS[number % len(_COLOURS)]
        parts += [
            _box(across.at(0), top, across.at(value) - across.at(0), height * _BAR_SHARE, colour),
            _text(across.at(0) - 6, middle, name, anchor="end"),
            _text(across.at(value) + 5, middle, f"{value:.3g}", anchor="start"),
        ]
    for mark in marks:
        x = across.at(mark)
        look = 'stroke="#333" stroke-dasharray="4 3"'
        parts.append(_rule((x, _TOP), (x, HEIGHT - _BOTTOM), look))
    return _picture(parts)


class _Axis:
    """Maps values to places on the picture, and knows its ticks."""

    def __init__(
        self, low: float, high: float, start: float, end: float, *, log: bool = False
    ) -> None:
        self._log = log
        self._start, self._end = start, end
        if log:
            self._low, self._high = log10(low), log10(high)
        else:
            self._low, self._high = low, high
        if self._high <= self._low:
            self._high = self._low + 1
        self.start, self.end = start, end

    def at(self, value: float) -> float:
        place = log10(value) if self._log else value
        share = (place - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        if self._log:
            decades = range(floor(self._low), ceil(self._high) + 1)
            found = [step * 10.0**decade for decade in decades for step in _STEPS[:-1]]
            edge = 1e-9
            return [t for t in found if self._low - edge <= log10(t) <= self._high + edge]
        raw = (self._high - self._low) / _TICKS
        power = 10.0 ** floor(log10(raw))
        step = next(step * power for step in _STEPS if step * power >= raw)
        first = ceil(self._low / step)
        return [step * n for n in range(first, floor(self._high / step) + 1)]


def _x_ticks(axis: _Axis) -> list[str]:
    bottom = HEIGHT - _BOTTOM
    return [
        part
        for tick in axis.ticks()
        for part in (
            _rule((axis.at(tick), _TOP), (axis.at(tick), bottom)),
            _text(axis.at(tick), bottom + 16, f"{tick:g}"),
        )
    ]


def _y_ticks(axis: _Axis) -> list[str]:
    return [
        part
        for tick in axis.ticks()
        for part in (
            _rule((_LEFT, axis.at(tick)), (WIDTH - _RIGHT, axis.at(tick))),
            _text(_LEFT - 6, axis.at(tick) + 4, f"{tick:g}", anchor="end"),
        )
    ]


def _frame(title: str, x_label: str, y_label: str) -> list[str]:
    turned = f'transform="translate(16 {(_TOP + HEIGHT - _BOTTOM) / 2}) rotate(-90)"'
    return [
        _title(title),
        _text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 10, x_label),
        f'<text {turned} text-anchor="middle">{escape(y_label)}</text>',
    ]


def _legend(number: int, name: str, colour: str) -> str:
    y = _TOP + 10 + number * 20
    left = WIDTH - _RIGHT + 14
    return _box(left, y - 9, 12, 12, colour) + _text(left + 18, y + 1, name, anchor="start")


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    size = f'width="{width:.1f}" height="{height:.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{colour}"/>'


def _rule(a: tuple[float, float], b: tuple[float, float], look: str = 'stroke="#ddd"') -> str:
    return f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}" {look}/>'


def _title(text: str) -> str:
    return f'<text x="{_LEFT}" y="22" font-size="15" font-weight="bold">{escape(text)}</text>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _empty(title: str) -> str:
    return _picture([_title(title), _text(WIDTH / 2, HEIGHT / 2, "not measured")])


def _picture(parts: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="12">'
        '<rect width="100%" height="100%" fill="#fff"/>' + "".join(parts) + "</svg>"
    )
