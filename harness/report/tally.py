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
    from collections.abc import Iterable, Iterator, Mapping

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


def place(config: Mapping[str, Any]) -> tuple[tuple[int, float, str], ...]:
    """For sorting: axis by axis, numbers by size, `none` (no limit) after the largest.

    >>> sorted([{"m": None}, {"m": 64}, {"m": 8}], key=place)
    [{'m': 8}, {'m': 64}, {'m': None}]
    """
    parts: list[tuple[int, float, str]] = []
    for content in config.values():
        if isinstance(content, (int, float)):
            parts.append((0, float(content), ""))
        elif content is None:
            parts.append((2, 0.0, ""))
        else:
            parts.append((1, 0.0, str(content)))
    return tuple(parts)


@dataclass(slots=True)
class Evidence:
    """What the verdicts rest on, over all died and exec-failed trials."""

    verdicts: int = 0
    certainty: Counter[str] = field(default_factory=Counter)
    saw: Counter[str] = field(default_factory=Counter)
    blind: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(slots=True)
class Cluster:
    """Trials that came to the same end in the same way: the same cause by the same path.

    Attributes:
        outcome: died or exec-failed.
        trials: How many, warm-up left out.
        cells: Of how many cells.
        trial: The one to look at: the first of those that are known best.
    """

    outcome: str
    hypothesis: str
    cause: str
    path: tuple[str, ...]
    trials: int
    cells: int
    trial: str


@dataclass(slots=True)
class Tally:
    """All cells of one campaign, in the order in which their first trials finished.

    clusters: The largest first.
    """

    cells: dict[str, CellCounts] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=Evidence)
    clusters: list[Cluster] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Judged:
    """What is kept of a verdict line; few different ones, shared by all trials."""

    outcome: str
    hypothesis: str | None = None
    cause: str | None = None
    certainty: str | None = None
    path: tuple[str, ...] = ()
    saw: tuple[str, ...] = ()
    blind: tuple[tuple[str, str], ...] = ()


_PLAIN = {o.value: _Judged(o.value) for o in Outcome}


def _judged(line: dict[str, Any]) -> _Judged:
    verdict = line.get("verdict")
    outcome = str(line["outcome"])
    if not verdict:
        return _PLAIN[outcome]
    grade = verdict.get("grade") or {}
    return _Judged(
        outcome,
        verdict["hypothesis"],
        verdict["cause"],
        verdict.get("certainty"),
        tuple(verdict.get("path") or ()),
        tuple(grade.get("saw", ())),
        tuple(sorted({(b["source"], b["why"]) for b in grade.get("blind", ())})),
    )


def count(records: Iterable[dict[str, Any]], verdicts: Iterable[dict[str, Any]]) -> Tally:
    """Records and verdicts → counts.

    Args:
        records: Objects with the keys of `TrialRecord` (trials.jsonl).
        verdicts: {trial, outcome, death, verdict, why} (verdicts.jsonl).
    """
    shared: dict[_Judged, _Judged] = {}
    of_trial: dict[str, _Judged] = {}
    for line in verdicts:
        judged = _PLAIN[line["outcome"]] if not line.get("verdict") else _judged(line)
        of_trial[line["trial"]] = shared.setdefault(judged, judged)
    return _count(
        ((r["trial"], r["cell"], r["config"], r["block"], r["warm_up"]) for r in records), of_trial
    )


def count_lines(trials: Iterable[str], verdicts: Iterable[str]) -> Tally:
    """The same from the lines of both files, quickly: 10⁵ trials in under a second."""
    return _count(_read_trials(trials), dict(_read_verdicts(verdicts)))


def _count(records: Iterable[_Head], of_trial: dict[str, _Judged]) -> Tally:
    result = Tally()
    cells = result.cells
    done: set[str] = set()
    uses: Counter[_Judged] = Counter()
    # How many trials of each cell came to the same thing: added up once at the end.
    sums: dict[tuple[str, int], int] = {}
    by_id: dict[int, _Judged] = {}
    first: dict[int, tuple[int, str]] = {}
    for place, (trial, name, config, block, warm_up) in enumerate(records):
        cell = cells.get(name)
        if cell is None:
            cell = cells[name] = CellCounts(name, config)
        if trial in done:
            continue
        done.add(trial)
        if warm_up:
            cell.warm_up += 1
            continue
        found = of_trial.get(trial)
        if found is None:
            cell.unjudged += 1
            continue
        key = id(found)
        if key not in by_id:
            by_id[key] = found
            first[key] = (place, trial)
        sums[name, key] = sums.get((name, key), 0) + 1
        if found.outcome in OBSERVED:
            died = found.outcome == DIED
            pair = cell.blocks.get(block)
            if pair is None:
                pair = cell.blocks[block] = [0, 0]
            pair[0] += died
            pair[1] += 1
            cell.order.append(place)
            cell.died_in_order.append(died)
    for (name, key), n in sums.items():
        judged = by_id[key]
        _add(cells[name], judged, n)
        if judged.cause is not None:
            uses[judged] += n
    _weigh(result.evidence, uses)
    result.clusters = _clusters(sums, by_id, first)
    return result


_BEST_KNOWN = ("certain", "likely")


def _clusters(
    sums: Mapping[tuple[str, int], int],
    by_id: Mapping[int, _Judged],
    first: Mapping[int, tuple[int, str]],
) -> list[Cluster]:
    grouped: dict[tuple[str, str, str, tuple[str, ...]], list[tuple[str, int]]] = {}
    for name, key in sums:
        one = by_id[key]
        if one.cause is not None and one.outcome in {DIED, EXEC_FAILED}:
            same = (one.outcome, one.hypothesis or "unknown", one.cause, one.path)
            grouped.setdefault(same, []).append((name, key))

    def known(key: int) -> tuple[int, tuple[int, str]]:
        sure = by_id[key].certainty
        return (_BEST_KNOWN.index(sure) if sure in _BEST_KNOWN else len(_BEST_KNOWN)), first[key]

    found = [
        Cluster(
            *same,
            trials=sum(sums[part] for part in parts),
            cells=len({name for name, _ in parts}),
            trial=min(known(key) for _, key in parts)[1][1],
        )
        for same, parts in grouped.items()
    ]
    return sorted(found, key=lambda c: (-c.trials, c.outcome, c.cause, c.path))


def _add(cell: CellCounts, judged: _Judged, n: int) -> None:
    hypothesis, cause = judged.hypothesis or "unknown", judged.cause or "unknown"
    match judged.outcome:
        case "died":
            cell.died += n
            cell.hypotheses[hypothesis] += n
            cell.causes[cause] += n
        case "exec-failed":
            cell.exec_failed += n
            cell.exec_failed_hypotheses[hypothesis] += n
            cell.exec_failed_causes[cause] += n
        case "survived":
            cell.survived += n
        case "unobserved":
            cell.unobserved += n
        case _:
            cell.invalid += n


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
    r'"config":(\{.*?\}),"seed":-?[0-9]+,"block":(-?[0-9]+),"warm_up":(true|false),',
)
_VERDICT = re.compile(
    r'\{"trial":"([^"\\]*)","outcome":"(survived|died|exec-failed|unobserved|invalid)",'
)

_Head = tuple[str, str, dict[str, Any], int, bool]
"""Trial, cell, config, block, warm-up."""


def _read_trials(lines: Iterable[str]) -> Iterator[_Head]:
    """Lines of trials.jsonl; torn lines are none."""
    configs: dict[str, dict[str, Any]] = {}
    match = _TRIAL.match
    for line in lines:
        head = match(line)
        if head is not None and line.endswith(("}\n", "}")):
            trial, cell, text, block, warm_up = head.groups()
            config = configs.get(text)
            if config is None:
                whole = _whole(text)
                if whole is not None:
                    config = configs[text] = whole
            if config is not None:
                yield trial, cell, config, int(block), warm_up == "true"
                continue
        record = _whole(line)
        if record is not None and "trial" in record:
            yield (
                record["trial"], record["cell"], record["config"], record["block"],
                record["warm_up"],
            )  # fmt: skip


def _read_verdicts(lines: Iterable[str]) -> Iterator[tuple[str, _Judged]]:
    """Lines of verdicts.jsonl; torn lines are none."""
    shared: dict[_Judged, _Judged] = {}
    by_text: dict[str, _Judged] = {}
    match = _VERDICT.match
    for line in lines:
        head = match(line)
        if head is not None and line.endswith(("}\n", "}")):
            trial, outcome = head.groups()
            if '"verdict":null' in line:
                yield trial, _PLAIN[outcome]
                continue
            text = _kept(line, outcome)
            judged = by_text.get(text)
            if judged is None and text and (small := _whole(text)) is not None:
                judged = _judged(small)
                judged = by_text[text] = shared.setdefault(judged, judged)
            if judged is not None:
                yield trial, judged
                continue
        record = _whole(line)
        if record is not None and "trial" in record:
            judged = _judged(record)
            yield record["trial"], shared.setdefault(judged, judged)


def _kept(line: str, outcome: str) -> str:
    """The parts of a verdict line that are counted, as JSON; "" where it must be read whole.

    A quote inside a string is written \\", so these keys stand nowhere but in their place.
    A verdict with blind spans is read whole: their times differ from trial to trial.
    """
    begin = line.find('"verdict":{"hypothesis":"')
    end = line.find("]", line.find(',"path":[', begin)) + 1
    grade = line.rfind(',"grade":{"saw":[', end)
    close = line.find("]", grade)
    if begin < 0 or end <= begin or grade < 0 or not line.startswith('],"blind":[]}', close):
        return ""
    return f'{{"outcome":"{outcome}",{line[begin:end]}{line[grade:close]}],"blind":[]}}}}}}'


def _whole(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
