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
    from collections.abc import Iterable, Iterator, Mapping, Sequence

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
    kinds = _Kinds()
    of_trial = {_name(line["trial"]): kinds.number(_judged(line)) for line in verdicts}
    heads = (
        (_name(r["trial"]), _name(r["cell"]), r["config"], r["block"], r["warm_up"])
        for r in records
    )
    return _count(heads, of_trial, kinds.all)


def count_lines(trials: Iterable[bytes], verdicts: Iterable[bytes]) -> Tally:
    """The same from the lines of both files, quickly: 10⁵ trials in half a second."""
    kinds = _Kinds()
    of_trial = dict(_read_verdicts(verdicts, kinds))
    return _count(_read_trials(trials), of_trial, kinds.all)


class _Kinds:
    """The few different things that trials come to, numbered: a number a trial is kept."""

    def __init__(self) -> None:
        self.all: list[_Judged] = []
        self._numbers: dict[_Judged, int] = {}

    def number(self, judged: _Judged) -> int:
        number = self._numbers.setdefault(judged, len(self.all))
        if number == len(self.all):
            self.all.append(judged)
        return number


_COUNTED = -1
"""In the place of a trial's number, once it is counted."""


def _count(records: Iterable[_Head], of_trial: dict[bytes, int], kinds: list[_Judged]) -> Tally:
    """of_trial: trial → number of what it came to; used up on the way."""
    result = Tally()
    cells: dict[bytes, tuple[CellCounts, list[int]]] = {}
    observed = [judged.outcome in OBSERVED for judged in kinds]
    dead = [judged.outcome == DIED for judged in kinds]
    first: list[bytes | None] = [None] * len(kinds)
    for place, (trial, name, config, block, warm_up) in enumerate(records):
        pair = cells.get(name)
        if pair is None:
            shown = name.decode(errors="replace")
            cell = result.cells[shown] = CellCounts(shown, config)
            pair = cells[name] = cell, [0] * len(kinds)
        cell, sums = pair
        number = of_trial.get(trial)
        if number == _COUNTED:
            continue
        of_trial[trial] = _COUNTED
        if warm_up:
            cell.warm_up += 1
        elif number is None:
            cell.unjudged += 1
        else:
            if not sums[number] and first[number] is None:
                first[number] = trial
            sums[number] += 1
            if observed[number]:
                died = dead[number]
                counted = cell.blocks.get(block)
                if counted is None:
                    counted = cell.blocks[block] = [0, 0]
                counted[0] += died
                counted[1] += 1
                cell.order.append(place)
                cell.died_in_order.append(died)
    for cell, sums in cells.values():
        for judged, n in zip(kinds, sums, strict=True):
            if n:
                _add(cell, judged, n)
                if judged.cause is not None:
                    _weigh(result.evidence, judged, n)
    result.clusters = _clusters([sums for _, sums in cells.values()], kinds, first)
    return result


_BEST_KNOWN = ("certain", "likely")


def _clusters(
    cells: Sequence[Sequence[int]], kinds: Sequence[_Judged], first: Sequence[bytes | None]
) -> list[Cluster]:
    """cells: for each cell, how many of its trials came to each kind. first: each kind's first trial."""
    grouped: dict[tuple[str, str, str, tuple[str, ...]], list[int]] = {}
    for number, one in enumerate(kinds):
        if one.cause is not None and one.outcome in {DIED, EXEC_FAILED} and first[number]:
            same = (one.outcome, one.hypothesis or "unknown", one.cause, one.path)
            grouped.setdefault(same, []).append(number)

    def known(number: int) -> int:
        sure = kinds[number].certainty
        return _BEST_KNOWN.index(sure) if sure in _BEST_KNOWN else len(_BEST_KNOWN)

    found = [
        Cluster(
            *same,
            trials=sum(sums[number] for sums in cells for number in numbers),
            cells=sum(any(sums[number] for number in numbers) for sums in cells),
            trial=(first[min(numbers, key=known)] or b"").decode(errors="replace"),
        )
        for same, numbers in grouped.items()
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


def _weigh(evidence: Evidence, judged: _Judged, n: int) -> None:
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
# rest, and as bytes. Whatever does not look exactly like that is read as JSON: slower,
# same result.

# A name with a backslash is read as JSON too. The expressions do not say so: `[^"]*` is
# several times as fast as a set of two.
_TRIAL = re.compile(
    rb'\{"format":"[^"]*","trial":"([^"]*)","cell":"([^"]*)","n":[^,]*,"config":(\{[^}]*\}),'
    rb'"seed":[^,]*,"block":(-?[0-9]+),"warm_up":(true|false),',
)
_VERDICT = re.compile(
    rb'\{"trial":"([^"]*)","outcome":"(survived|died|exec-failed|unobserved|invalid)",'
)

_END = (b"}\n", b"}")

_Head = tuple[bytes, bytes, dict[str, Any], int, bool]
"""Trial, cell, config, block, warm-up."""


def _read_trials(lines: Iterable[bytes]) -> Iterator[_Head]:
    """Lines of trials.jsonl; torn lines are none."""
    configs: dict[bytes, dict[str, Any]] = {}
    match = _TRIAL.match
    for line in lines:
        head = match(line)
        if head is not None and line.endswith(_END) and b"\\" not in head[0]:
            trial, cell, text, block, warm_up = head.groups()
            config = configs.get(text)
            if config is None:
                whole = _whole(text)
                if whole is not None:
                    config = configs[text] = whole
            if config is not None:
                yield trial, cell, config, int(block), warm_up == b"true"
                continue
        record = _whole(line)
        if record is not None and "trial" in record:
            yield (
                _name(record["trial"]), _name(record["cell"]), record["config"],
                record["block"], record["warm_up"],
            )  # fmt: skip


def _read_verdicts(lines: Iterable[bytes], kinds: _Kinds) -> Iterator[tuple[bytes, int]]:
    """Lines of verdicts.jsonl; torn lines are none."""
    by_text: dict[bytes, int] = {}
    match = _VERDICT.match
    for line in lines:
        head = match(line)
        if head is not None and line.endswith(_END) and b"\\" not in head[0]:
            trial, outcome = head.groups()
            plain = b'"verdict":null' in line
            text = outcome if plain else _kept(line, outcome)
            number = by_text.get(text)
            if number is None and plain:
                number = by_text[text] = kinds.number(_Judged(outcome.decode()))
            elif number is None and text and (small := _whole(text)) is not None:
                number = by_text[text] = kinds.number(_judged(small))
            if number is not None:
                yield trial, number
                continue
        record = _whole(line)
        if record is not None and "trial" in record:
            yield _name(record["trial"]), kinds.number(_judged(record))


def _kept(line: bytes, outcome: bytes) -> bytes:
    """The parts of a verdict line that are counted, as JSON; b"" where it must be read whole.

    A quote inside a string is written \\", so these keys stand nowhere but in their place.
    A verdict with blind spans is read whole: their times differ from trial to trial.
    """
    begin = line.find(b'"verdict":{"hypothesis":"')
    end = line.find(b"]", line.find(b',"path":[', begin)) + 1
    grade = line.rfind(b',"grade":{"saw":[', end)
    close = line.find(b"]", grade)
    if begin < 0 or end <= begin or grade < 0 or not line.startswith(b'],"blind":[]}', close):
        return b""
    return b'{"outcome":"%b",%b%b],"blind":[]}}}' % (outcome, line[begin:end], line[grade:close])


def _name(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _whole(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line.decode(errors="replace"))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
