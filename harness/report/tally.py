"""Trials and verdicts → counts per cell, in one pass and in little memory.

Law: counts only what is recorded. A trial's verdict is looked up, never guessed: a
trial without one is `unjudged` and no part of any rate. Warm-up trials are counted
apart. A trial that is recorded or judged twice counts once, as it was last.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.model.verdicts import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DIED, SURVIVED = Outcome.DIED.value, Outcome.SURVIVED.value
EXEC_FAILED = Outcome.EXEC_FAILED.value
UNOBSERVED, INVALID = Outcome.UNOBSERVED.value, Outcome.INVALID.value
OBSERVED = frozenset({DIED, SURVIVED, EXEC_FAILED})


@dataclass(slots=True)
class CellCounts:
    """What the trials of one cell came to, warm-up left out.

    Attributes:
        blocks: Block → [died, observed].
        order, died_in_order: For each observed trial, in the order the trials finished:
            its place among all trials of the campaign, and 1 if it died.
    """

    cell: str
    config: dict[str, Any]
    died: int = 0
    survived: int = 0
    exec_failed: int = 0
    unobserved: int = 0
    invalid: int = 0
    unjudged: int = 0
    warm_up: int = 0
    hypotheses: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    exec_failed_hypotheses: Counter[str] = field(default_factory=Counter)
    exec_failed_causes: Counter[str] = field(default_factory=Counter)
    blocks: dict[int, list[int]] = field(default_factory=dict)
    order: array[int] = field(default_factory=lambda: array("l"))
    died_in_order: bytearray = field(default_factory=bytearray)

    @property
    def observed(self) -> int:
        """The denominator of the death rate."""
        return self.died + self.survived + self.exec_failed

    @property
    def trials(self) -> int:
        """All trials that count, judged."""
        return self.observed + self.unobserved + self.invalid


@dataclass(slots=True)
class Evidence:
    """What the verdicts rest on, over all died and exec-failed trials."""

    verdicts: int = 0
    certainty: Counter[str] = field(default_factory=Counter)
    saw: Counter[str] = field(default_factory=Counter)
    blind: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(slots=True)
class Tally:
    """All cells of one campaign, in the order in which their first trials finished."""

    cells: dict[str, CellCounts] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(frozen=True, slots=True)
class _Judged:
    """What is kept of a verdict line; few different ones, shared by all trials."""

    outcome: str
    hypothesis: str | None = None
    cause: str | None = None
    certainty: str | None = None
    saw: tuple[str, ...] = ()
    blind: tuple[tuple[str, str], ...] = ()


def _judged(line: dict[str, Any]) -> _Judged:
    verdict = line.get("verdict")
    outcome = str(line["outcome"])
    if not verdict:
        return _Judged(outcome)
    grade = verdict.get("grade") or {}
    return _Judged(
        outcome,
        verdict["hypothesis"],
        verdict["cause"],
        verdict.get("certainty"),
        tuple(grade.get("saw", ())),
        tuple(sorted({(b["source"], b["why"]) for b in grade.get("blind", ())})),
    )


def count(records: Iterable[dict[str, Any]], verdicts: Iterable[dict[str, Any]]) -> Tally:
    """Both files of a campaign → its counts.

    Args:
        records: Objects with the keys of `TrialRecord` (trials.jsonl).
        verdicts: {trial, outcome, death, verdict, why} (verdicts.jsonl).
    """
    shared: dict[_Judged, _Judged] = {}
    of_trial: dict[str, _Judged] = {}
    plain = {o.value: _Judged(o.value) for o in Outcome}
    for line in verdicts:
        if line.get("verdict"):
            judged = _judged(line)
            judged = shared.setdefault(judged, judged)
        else:
            judged = plain[line["outcome"]]
        of_trial[line["trial"]] = judged
    result = Tally()
    done = _Seen()
    uses: Counter[_Judged] = Counter()
    for place, record in enumerate(records):
        name = record["cell"]
        cell = result.cells.get(name)
        if cell is None:
            cell = result.cells[name] = CellCounts(name, record["config"])
        if record["warm_up"]:
            cell.warm_up += done.first(record["trial"])
            continue
        if not done.first(record["trial"]):
            continue
        found = of_trial.get(record["trial"])
        if found is None:
            cell.unjudged += 1
            continue
        _add(cell, found, place, record["block"])
        if found.cause is not None:
            uses[found] += 1
    _weigh(result.evidence, uses)
    return result


class _Seen:
    """Which trials were counted already."""

    def __init__(self) -> None:
        self._trials: set[str] = set()

    def first(self, trial: str) -> bool:
        before = len(self._trials)
        self._trials.add(trial)
        return len(self._trials) > before


def _add(cell: CellCounts, judged: _Judged, place: int, block: int) -> None:
    outcome = judged.outcome
    if outcome == UNOBSERVED:
        cell.unobserved += 1
        return
    if outcome == INVALID:
        cell.invalid += 1
        return
    died = outcome == DIED
    if died:
        cell.died += 1
        cell.hypotheses[judged.hypothesis or "unknown"] += 1
        cell.causes[judged.cause or "unknown"] += 1
    elif outcome == EXEC_FAILED:
        cell.exec_failed += 1
        cell.exec_failed_hypotheses[judged.hypothesis or "unknown"] += 1
        cell.exec_failed_causes[judged.cause or "unknown"] += 1
    else:
        cell.survived += 1
    pair = cell.blocks.setdefault(block, [0, 0])
    pair[0] += died
    pair[1] += 1
    cell.order.append(place)
    cell.died_in_order.append(died)


def _weigh(evidence: Evidence, uses: Counter[_Judged]) -> None:
    for judged, n in uses.items():
        evidence.verdicts += n
        evidence.certainty[judged.certainty or "unknown"] += n
        for source in judged.saw:
            evidence.saw[source] += n
        for blind in judged.blind:
            evidence.blind[blind] += n


# --- reading the two files quickly ---------------------------------------------------
#
# A campaign of 10⁵ trials is some 150 MB of JSON, of which a table needs a tenth. Lines
# are written by one writer in one order of keys, so their heads can be read without the
# rest. Whatever does not look exactly like that is read as JSON: slower, same result.

_TRIAL = re.compile(
    r'\{"format":"[^"\\]*","trial":"([^"\\]*)","cell":"([^"\\]*)","n":[0-9]+,'
    r'"config":(\{.*?\}),"seed":-?[0-9]+,"block":(-?[0-9]+),"warm_up":(true|false),.*\}\n?',
)
_VERDICT = re.compile(
    r'\{"trial":"([^"\\]*)","outcome":"(survived|unobserved|invalid)",.*"verdict":null.*\}\n?'
)


def read_trials(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Lines of trials.jsonl → {trial, cell, config, block, warm_up}; torn lines are none."""
    configs: dict[str, dict[str, Any]] = {}
    match = _TRIAL.fullmatch
    for line in lines:
        head = match(line)
        if head is not None:
            trial, cell, text, block, warm_up = head.groups()
            config = configs.get(text)
            if config is None:
                try:
                    config = configs[text] = json.loads(text)
                except ValueError:
                    head = None
        if head is not None:
            yield {
                "trial": trial, "cell": cell, "config": config,
                "block": int(block), "warm_up": warm_up == "true",
            }  # fmt: skip
            continue
        record = _whole(line)
        if record is not None and "trial" in record:
            yield record


def read_verdicts(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Lines of verdicts.jsonl → {trial, outcome, verdict}; torn lines are none."""
    match = _VERDICT.fullmatch
    for line in lines:
        head = match(line)
        if head is not None:
            yield {"trial": head[1], "outcome": head[2], "verdict": None}
            continue
        record = _whole(line)
        if record is not None and "trial" in record:
            yield record


def _whole(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
