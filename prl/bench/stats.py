"""Medians, spread and ratios of what was measured in interleaved rounds.

A series has a value for each round. One that is not to be counted is NaN, so that the rounds of
several series stay side by side.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan
from typing import Any, TypeVar

T = TypeVar("T")


def series(
    turns: Mapping[str, Sequence[T | None]], pick: Callable[[T], float]
) -> dict[str, list[float]]:
    """One number of each round of each way; None, a round that does not count, is NaN."""
    return {
        way: [nan if one is None else pick(one) for one in found] for way, found in turns.items()
    }


def counted(values: Sequence[float]) -> list[float]:
    """Those of the rounds that count."""
    return [value for value in values if not isnan(value)]


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 … 1) of ``values`` lie, linearly between neighbours.

    Raises:
        ValueError: there are no values.
    """
    ordered = sorted(counted(values))
    if not ordered:
        raise ValueError("no values: nothing was measured")
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a series says: its middle and how far it spreads."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""
    count: int

    def facts(self) -> dict[str, Any]:
        """As plain values, rounded to what is meant."""
        return {
            name: value if isinstance(value, int) else significant(value)
            for name, value in asdict(self).items()
        }


def summary(values: Sequence[float]) -> Summary:
    """Median and quartiles. Raises ValueError when there are no values."""
    found = counted(values)
    return Summary(quantile(found, 0.5), quantile(found, 0.25), quantile(found, 0.75), len(found))


def ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Round by round, so that what disturbed a whole round cancels out; those that both have.

    Raises:
        ValueError: the series do not belong together.
    """
    return counted([value / other for value, other in zip(values, base, strict=True) if other > 0])


def compared(ways: Mapping[str, Sequence[float]], way: str, other: str) -> list[float]:
    """The ratios of a way to another one; none when this host cannot have one of them."""
    return ratios(ways[way], ways[other]) if {way, other} <= ways.keys() else []


def significant(value: float, digits: int = 4) -> float:
    """``value`` with so many significant digits."""
    return float(f"{value:.{digits}g}")


def thinned(values: Sequence[float], points: int) -> list[float]:
    """The quantiles at ``points`` equal steps from 0 to 1: a distribution's curve."""
    return [quantile(values, step / (points - 1)) for step in range(points)] if values else []
