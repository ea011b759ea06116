"""Medians, spread and ratios of what was measured in interleaved rounds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 … 1) of ``values`` lie, linearly between neighbours.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values: nothing was measured")
    ordered = sorted(values)
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
    return Summary(
        quantile(values, 0.5), quantile(values, 0.25), quantile(values, 0.75), len(values)
    )


def ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Round by round, so that what disturbed a whole round cancels out.

    Raises:
        ValueError: the series do not belong together.
    """
    return [value / other for value, other in zip(values, base, strict=True) if other > 0]


def significant(value: float, digits: int = 4) -> float:
    """``value`` with so many significant digits."""
    return float(f"{value:.{digits}g}")


def thinned(values: Sequence[float], points: int) -> list[float]:
    """The quantiles at ``points`` equal steps from 0 to 1: a distribution's curve."""
    return [quantile(values, step / (points - 1)) for step in range(points)] if values else []
