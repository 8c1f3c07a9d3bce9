"""Dose-response curves of a table: as lines of text, as JSON, as an SVG picture.

Law: which cells belong to one curve is decided here (all axes but one equal); the fit is
`stats.curve`. Nothing is drawn that was not fitted.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from harness.report import words
from harness.stats import curve as fits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.report.table import Row

DEFAULT_LEVEL = 0.1
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Response:
    """One axis, the other axes fixed, and the curve along it."""

    axis: str
    fixed: dict[str, Any]
    curve: fits.Curve

    def document(self) -> dict[str, Any]:
        return {"axis": self.axis, "config": self.fixed, **self.curve.document()}


def axes(rows: Sequence[Row], least: int = 4) -> list[str]:
    """Axes of numbers with enough different values for a curve."""
    found = []
    for key in dict.fromkeys(k for row in rows for k in row.config):
        values = {row.config.get(key) for row in rows if _number(row.config.get(key))}
        if len(values) >= least:
            found.append(key)
    return found


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def responses(rows: Sequence[Row], axis: str, level: float = DEFAULT_LEVEL) -> Iterator[Response]:
    """One curve for each setting of the other axes that has three doses or more."""
    groups: dict[str, tuple[dict[str, Any], list[fits.Dose]]] = {}
    for row in rows:
        dose = row.config.get(axis)
        if dose is None or not _number(dose) or not row.observed:
            continue
        fixed = {k: v for k, v in row.config.items() if k != axis}
        _, doses = groups.setdefault(json.dumps(fixed, sort_keys=True), (fixed, []))
        doses.append(fits.Dose(float(dose), row.died, row.observed))
    for fixed, doses in groups.values():
        if len({d.value for d in doses}) >= fits.LEAST:
            yield Response(axis, fixed, fits.fit(doses, level))


def line(response: Response) -> str:
    """The curve in one line: a strip of bars, and where it crosses the level."""
    curve, axis = response.curve, response.axis
    strip = "".join(_BARS[min(8, round(m * 8))] for m in curve.mean[::2])
    where = f" ({words.config(response.fixed)})" if response.fixed else ""
    ends = f"{_dose(axis, curve.at[0])} {strip} {_dose(axis, curve.at[-1])}"
    crossing = curve.crossing
    side = "falls under" if curve.falling > 0.5 else "rises over"
    level = words.percent(crossing.level)
    if crossing.point is None or crossing.low is None or crossing.high is None:
        said = f"does not cross {level} in this range"
    else:
        span = f"{_dose(axis, crossing.low)} to {_dose(axis, crossing.high)}"
        said = f"{side} {level} at {_dose(axis, crossing.point)} [{span}]"
    return f"{axis}{where}: {ends}  {said}"


def _dose(axis: str, value: float) -> str:
    """As near as a curve can tell: two digits that matter."""
    shown = words.value(axis, float(f"{value:.2g}"))
    if shown.endswith("B"):
        mebi = value / (1 << 20)
        return f"{mebi:.0f}MiB" if mebi >= 1 else f"{value / 1024:.0f}KiB"
    return shown


def svg(response: Response, width: int = 480, height: int = 280) -> str:
    """The band, the curve, the counts, the level: one picture that needs nothing else."""
    curve = response.curve
    left, top, right, bottom = 48, 16, width - 16, height - 40
    n = len(curve.at)

    def x(i: float) -> float:
        return left + (right - left) * i / (n - 1)

    def y(rate: float) -> float:
        return bottom - (bottom - top) * rate

    band = [f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(curve.high)]
    band += [f"{x(i):.1f},{y(curve.low[i]):.1f}" for i in reversed(range(n))]
    middle = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(curve.mean))
    level = y(curve.crossing.level)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        '<g font-family="sans-serif" font-size="11">',
        f"<title>death rate along {escape(response.axis)}</title>",
        f'<polygon points="{" ".join(band)}" fill="#4477aa" opacity="0.2"/>',
        f'<polyline points="{middle}" fill="none" stroke="#4477aa" stroke-width="2"/>',
        f'<path d="M{left} {level:.1f}H{right}" stroke="#cc6677" stroke-dasharray="4 3"/>',
    ]
    for dose in curve.doses:
        at = _position(curve, dose.value) * (n - 1)
        parts.append(
            f'<circle cx="{x(at):.1f}" cy="{y(dose.died / dose.observed):.1f}" r="3.5" '
            f'fill="#222"><title>{escape(words.value(response.axis, dose.value))}: '
            f"{dose.died}/{dose.observed}</title></circle>"
        )
    parts += [
        f'<text x="{left - 6}" y="{y(rate) + 4:.1f}" text-anchor="end">{rate:.0%}</text>'
        for rate in (0.0, 0.5, 1.0)
    ]
    for i, anchor in ((0, "start"), (n - 1, "end")):
        shown = escape(_dose(response.axis, curve.at[i]))
        parts.append(
            f'<text x="{x(i):.1f}" y="{bottom + 16}" text-anchor="{anchor}">{shown}</text>'
        )
    parts.append(
        f'<text x="{(left + right) / 2:.0f}" y="{height - 8}" text-anchor="middle">'
        f"{escape(response.axis)}</text></g></svg>"
    )
    return "\n".join(parts)


def _position(curve: fits.Curve, value: float) -> float:
    first, last = curve.at[0], curve.at[-1]
    if curve.logarithmic:
        return (math.log(value) - math.log(first)) / (math.log(last) - math.log(first))
    return (value - first) / (last - first)
