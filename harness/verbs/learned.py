"""What a trial and a machine's start really took, in earlier campaigns of the same matrix.

Rule: only what was measured here and on the same kind of machine; where nothing was, the answer
is None, and whoever asks falls back on a figure of his own and says so.
"""

from __future__ import annotations

import datetime as dt
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.store import Campaign, results_root

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

MOST = 5
"""So many campaigns, the newest: a machine that was slow last year says nothing about tonight."""


@dataclass(frozen=True, slots=True)
class Learned:
    """Medians in seconds.

    Attributes:
        campaigns: How many they come from.
        start: From the order to a machine to its first trial; None: never measured.
        trial: Of any trial. `cells`: of one cell's.
    """

    campaigns: int
    start: float | None
    trial: float
    cells: Mapping[str, float]

    def seconds(self, cell: str) -> float:
        """What a trial of this cell took; of a cell that is new, what any took."""
        return self.cells.get(cell, self.trial)


def learn(matrix: str, kind: str, *, root: Path | None = None) -> Learned | None:
    """From the newest campaigns of this matrix; None where there was none.

    kind: "auto" takes whatever it came to.
    """
    root = results_root() if root is None else root
    starts: list[float] = []
    trials: dict[str, list[float]] = {}
    used = 0
    # A name is time, matrix, four hex digits: the newest last.
    for path in sorted(root.glob(f"*Z-{matrix}-????"), reverse=True):
        if used == MOST:
            break
        campaign = Campaign(path)
        meta = campaign.meta() if (path / "campaign.yaml").is_file() else {}
        was = (meta.get("machine") or {}).get("kind")
        if was is None or kind not in ("auto", was):
            continue
        done = list(campaign.trials())
        used += bool(done)
        starts += _starts(_instant(str(meta["started"])), done)
        for one in done:
            trials.setdefault(str(one["cell"]), []).append(_end(one))
    if not used:
        return None
    return Learned(
        campaigns=used,
        start=statistics.median(starts) if starts else None,
        trial=statistics.median(s for each in trials.values() for s in each),
        cells={cell: statistics.median(each) for cell, each in trials.items()},
    )


def _end(trial: Mapping[str, Any]) -> float:
    """Seconds from a trial's beginning to the end of its last phase."""
    return max((float(end) for _, end in trial["spans"].values()), default=0.0)


def _instant(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


def _starts(started: float, done: Iterable[Mapping[str, Any]]) -> list[float]:
    """The pauses in which nothing but a machine's start went on.

    A block that begins while another one's trials run (`--jobs`) tells nothing.
    """
    found, blocks, busy_until = [], set(), started
    for one in sorted(done, key=lambda t: str(t["began"])):
        began = _instant(str(one["began"]))
        if one["block"] not in blocks and began > busy_until:
            found.append(began - busy_until)
        blocks.add(one["block"])
        busy_until = max(busy_until, began + _end(one))
    return found
