"""One line of a benchmark: ours, the other's, their ratio, and the aim."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, isfinite, log
from typing import TYPE_CHECKING, Any

from harness.stats.medians import median, median_interval, middle_interval

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """ours and other are medians in `unit`; ratio with its 95 % interval, None: too few to tell.

    aim: (">=" or "<=", value). It is judged by the ratio itself, or for "<=" on a
    perturbation by the interval's upper end, as `by` says (point | low | high | ours).
    """

    name: str
    ours: float
    other: float | None
    competitor: str
    ratio: float | None
    low: float | None
    high: float | None
    n: int
    unit: str
    aim: tuple[str, float] | None = None
    by: str = "point"

    @property
    def met(self) -> bool | None:
        """None where there is no aim; what nothing is known of is not met."""
        if self.aim is None:
            return None
        sign, value = self.aim
        found = {"point": self.ratio, "low": self.low, "high": self.high, "ours": self.ours}[
            self.by
        ]
        if found is None:
            return False
        return found >= value if sign == ">=" else found <= value

    def document(self) -> dict[str, Any]:
        """As --json prints it; `ours` and `other` in `unit`, `ratio` without one."""
        return {
            "name": self.name,
            "ours": self.ours,
            "other": self.other,
            "competitor": self.competitor,
            "ratio": self.ratio,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "unit": self.unit,
            "aim": None if self.aim is None else f"{self.by} {self.aim[0]} {self.aim[1]:g}",
            "met": self.met,
        }


def paired(
    name: str,
    pairs: Sequence[tuple[float, float]],
    *,
    competitor: str,
    unit: str,
    aim: tuple[str, float] | None = None,
    by: str = "point",
) -> Ratio:
    """pairs of (ours, other) from the same event or the same round; ratio = other / ours."""
    each = [b / a for a, b in pairs if a > 0 and b > 0]
    low, high = median_interval(each) if each else (None, None)
    return Ratio(
        name=name,
        ours=median([a for a, _ in pairs]),
        other=median([b for _, b in pairs]),
        competitor=competitor,
        ratio=median(each) if each else None,
        low=low,
        high=high,
        n=len(each),
        unit=unit,
        aim=aim,
        by=by,
    )


def mirrored(
    name: str,
    pairs: Sequence[tuple[float, float]],
    *,
    competitor: str,
    unit: str,
    alpha: float,
    aim: tuple[str, float] | None = None,
) -> Ratio:
    """Rounds of (ours, other), each side measured as often first as last; ratio = ours / other.

    Such a round errs as often up as down, so that its interval (1 - alpha) may lean on
    symmetry. The aim is judged by its upper end.
    """
    low, middle, high = middle_interval([log(a / b) for a, b in pairs], alpha)
    return Ratio(
        name=name,
        ours=median([a for a, _ in pairs]),
        other=median([b for _, b in pairs]),
        competitor=competitor,
        ratio=exp(middle),
        low=exp(low) if isfinite(low) else None,
        high=exp(high) if isfinite(high) else None,
        n=len(pairs),
        unit=unit,
        aim=aim,
        by="high",
    )


def alone(
    name: str,
    value: float,
    *,
    n: int,
    unit: str,
    aim: tuple[str, float] | None = None,
    what: str = "",
) -> Ratio:
    """A number of ours that needs no competitor."""
    return Ratio(
        name=name, ours=value, other=None, competitor=what, ratio=None, low=None, high=None,
        n=n, unit=unit, aim=aim, by="ours",
    )  # fmt: skip


def interval(ratio: Ratio) -> str:
    """The interval as text, or that there is none yet."""
    if ratio.low is None or ratio.high is None:
        return "too few to tell"
    return f"{ratio.low:.3g}-{ratio.high:.3g}"


def lines(ratios: Sequence[Ratio]) -> list[str]:
    """The table as text."""
    from tabulate import tabulate

    rows = []
    for r in ratios:
        spread = "" if r.ratio is None else f"{r.ratio:.3g} ({interval(r)})"
        aim = "" if r.aim is None else f"{r.aim[0]} {r.aim[1]:g}"
        met = {None: "", True: "yes", False: "NO"}[r.met]
        other = "" if r.other is None else f"{r.other:.4g}"
        rows.append((r.name, f"{r.ours:.4g}", other, r.unit, r.competitor, spread, r.n, aim, met))
    head = ("what", "ours", "other", "unit", "against", "ratio (95 %)", "n", "aim", "met")
    return str(tabulate(rows, headers=head, disable_numparse=True)).splitlines()
