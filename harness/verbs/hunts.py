"""The three searches of `bisect`, built from files: along an axis, along a list, between two.

Rule: values in, `Hunt` out; nothing is run here. Which values an axis has and what two
configurations differ in is decided here, once, so that a resumed search is the same one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness import matrix, spec, units
from harness.matrix import Cell
from harness.report import words
from harness.stats import compare, sequential
from harness.stats.certify import Certify, Chain
from harness.stats.culprit import AND, MOST, OR, SINGLE, Culprit, certification
from harness.stats.search import DOUBT, GAP, LOOK
from harness.stats.step import FALLING, RISING, Step
from harness.stats.threshold import Oriented, Threshold
from harness.verbs.hunting import Answer, Hunt, bad

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.spec import Loaded
    from harness.stats.search import Search

# With fewer values than this an axis of amounts gets points between them.
_FEW = 8
_POINTS = 33

_DO_IT = {
    SINGLE: "one setting does it:", AND: "two settings do it together:",
    OR: "either of two settings does it:",
}  # fmt: skip

# Trials of either end before anything is said about the two.
_LOOKED = 8

# Wrong about one search in twenty whose difference is at the edge of what it looks for.
_SURE_OF_NONE = 0.95


# --- along an axis -----------------------------------------------------------------------


def axis_values(loaded: Loaded, key: str) -> list[str] | None:
    """The values to search, as text for an override; None: those of the file will do.

    Raises:
        BadInput: no such axis, or nothing between its ends.
    """
    axis = next((a for a in loaded.axes if a.key == key), None)
    if axis is None:
        there = ", ".join(a.key for a in loaded.axes) or "none"
        raise bad(
            f"--axis {key}", f"not an axis of this file (it has: {there})",
            f"one of them, or -o {key}=LOW,HIGH",
        )  # fmt: skip
    numbers = [v.plain for v in axis.values if isinstance(v.plain, (int, float))]
    if len(axis.values) < 2:
        raise bad(f"--axis {key}", "it has one value", f"-o {key}=LOW,HIGH")
    if len(axis.values) >= _FEW or len(numbers) < 2:
        return None
    low, high = min(numbers), max(numbers)
    steps = [low + (high - low) * i / (_POINTS - 1) for i in range(_POINTS)]
    match axis.unit:
        case "bytes":
            # Whole MiB where there is room, else pages.
            grain = 1 << 20 if (high - low) / _POINTS >= 1 << 20 else 4096
            texts = [units.show_size(max(grain, round(s / grain) * grain)) for s in steps]
        case "seconds":
            texts = [units.show_seconds(round(s, 6)) for s in steps]
        case _ if all(isinstance(n, int) for n in numbers):
            texts = [str(round(s)) for s in steps]
        case _:
            texts = [f"{s:.6g}" for s in steps]
    return list(dict.fromkeys(texts))


def along(loaded: Loaded, key: str) -> list[Cell]:
    """One cell per value of the axis, in order.

    Raises:
        BadInput: other axes have more than one value.
    """
    found = list(matrix.cells(loaded))
    others = [a for a in loaded.axes if a.key != key and len(a.values) > 1]
    if others:
        fixes = " ".join(f"-o {a.key}={words.value(a.key, a.values[0].plain)}" for a in others)
        raise bad(
            f"--axis {key}", f"{', '.join(a.key for a in others)} would change with it",
            f"one value each: {fixes}",
        )  # fmt: skip
    if all(isinstance(c.config[key], (int, float)) for c in found):
        found.sort(key=lambda c: float(c.config[key]))
    return found


def threshold(
    cells: Sequence[Cell], key: str, level: float, tolerance: float, rising: bool | None
) -> Hunt:
    """Where along an amount the death rate crosses a level."""
    search: Threshold | Oriented
    if rising is None:
        search = Oriented(len(cells), level=level, tolerance=tolerance)
    else:
        search = Threshold(len(cells), level=level, tolerance=tolerance, rising=rising)

    def current() -> Threshold:
        return search.likelier if isinstance(search, Oriented) else search

    def shown(index: int) -> str:
        return words.value(key, cells[index].config[key])

    def say() -> str:
        at = current().answer
        if at.between is None:
            return f"{at.side} {words.percent(level)} everywhere {words.percent(at.confidence)}"
        left, right = at.between
        return f"crosses between {shown(left)} and {shown(right)} {words.percent(at.confidence)}"

    def answer() -> Answer:
        one = current()
        at = one.answer
        mean, low, high = one.curve()
        curve = [
            {
                "value": c.config[key], "died": int(one.died[i]), "trials": int(one.ran[i]),
                "rate": {"point": mean[i], "low": low[i], "high": high[i], "method": "logistic"},
            }
            for i, c in enumerate(cells)
        ]  # fmt: skip
        between = None if at.between is None else [cells[i].config[key] for i in at.between]
        value = {
            "axis": key, "between": between, "side": at.side, "level": level,
            "tolerance": tolerance, "rising": one.rising, "curve": curve,
        }  # fmt: skip
        if at.between is None:
            line = (
                f"{key}: the death rate stays {at.side} {words.percent(level)} from "
                f"{shown(0)} to {shown(len(cells) - 1)}; -o {key}=LOW,HIGH looks further out"
            )
        else:
            line = (
                f"{key}: the death rate crosses {words.percent(level)} between "
                f"{shown(at.between[0])} and {shown(at.between[1])} "
                f"(to within {tolerance * 100:g}pp)"
            )
        there = at.between is not None
        return Answer(
            value, at.confidence, (line,), found=search.done and there,
            nowhere=search.done and not there,
        )  # fmt: skip

    return Hunt("threshold", search, len(cells), lambda q: cells[q], say, answer)


def step(cells: Sequence[Cell], key: str, direction: str = "") -> Hunt:
    """Where in an ordered list it begins.

    Args:
        direction: rising: the last is bad; falling: the first is. Left out: a list goes from
            good to bad, and of amounts nobody knows which end is bad.
    """
    amounts = all(isinstance(c.config[key], (int, float)) for c in cells)
    directions = (direction,) if direction else (RISING, FALLING) if amounts else (RISING,)
    chain = certified_step(len(cells), directions)

    def shown(index: int) -> str:
        return words.value(key, cells[index].config[key])

    def value(first: int, last_good: int) -> dict[str, Any]:
        return {
            "axis": key, "first_bad": cells[first].config[key],
            "last_good": cells[last_good].config[key], "direction": chain.first.direction,
        }  # fmt: skip

    say, answer, hopeless = step_words(chain, shown, value)
    return Hunt("step", chain, len(cells), lambda q: cells[q], say, answer, hopeless)


def certified_step(candidates: int, directions: Sequence[str] = (RISING,)) -> Chain[Step]:
    """The first bad one of a list, and then trials of it and of the one before it.

    The search takes it as given that the first lives and the last dies. Where that is not so
    it still ends, sure of an answer; the trials that follow are what finds it out.
    """
    search = Step(candidates, directions=directions)

    def then() -> Certify:
        return Certify([search.last_good, search.first_bad], _between(*search.rates()))

    return Chain(search, then, lambda: _certifying(search.rates(), live=1, die=1))


# Trials of one configuration that is being certified, at most.
_CERTIFY = 80


def _limits(low: float, high: float) -> tuple[float, float]:
    """Between two rates, and apart from both: what lies there is neither of them."""
    return min(low + 0.02, 0.6 * low + 0.4 * high), max(0.3 * low + 0.7 * high, 0.05)


def _between(low: float, high: float) -> Any:
    """A rule for which of two rates it is."""
    below, above = _limits(low, high)
    return sequential.rule(_CERTIFY, below=below, above=above)


def _certifying(rates: tuple[float, float], *, live: int, die: int) -> float:
    """Trials that certifying so many configurations of either kind will take."""
    each = (min(_CERTIFY, sequential.roughly(rate, *_limits(*rates))) for rate in rates)
    return sum(n * one for n, one in zip((live, die), each, strict=True))


def step_words(chain: Chain[Step], shown: Any, value: Any) -> tuple[Any, Any, Any]:
    """How a step search says its state, its answer and that it is hopeless."""
    search = chain.first

    def say() -> str:
        said = f"first bad {shown(search.first_bad)} {words.percent(search.best[1])}"
        said += _doubt(search)
        return f"{said}, being certified" if search.done and not chain.done else said

    def answer() -> Answer:
        last_good, first, confidence = search.last_good, search.first_bad, search.best[1]
        low, high = search.rates()
        line = (
            f"first bad: {shown(first)}, last good: {shown(last_good)} "
            f"(death rate {words.percent(low)} before, {words.percent(high)} from there on)"
        )
        lines, certified = [line], []
        for index, dies in ((last_good, False), (first, True)):
            says = f"{shown(index)} {'dies' if dies else 'lives'}"
            if chain.second is not None:
                one = _certificate(chain.second, index, says, dies=dies)
                certified.append(one)
                lines.append(_certificate_line(one))
        found = {
            **value(first, last_good), "rates": {"good": low, "bad": high}, "certified": certified,
        }  # fmt: skip
        holds = bool(certified) and all(one["holds"] for one in certified)
        ends = (0, len(search.ran) - 1)
        good, worst = ends if search.direction == RISING else ends[::-1]
        given = (f"{shown(good)} lives", f"{shown(worst)} dies")
        lines += [
            f"perhaps not so, though taken as given: {end}"
            for one, end in zip(certified, given, strict=False)
            if one["verdict"] and not one["holds"]
        ]
        return Answer(found, confidence, tuple(lines), found=chain.done and holds)

    return say, answer, lambda left: no_difference(search, left)


def _certificate(second: Certify, question: int, says: str, *, dies: bool) -> dict[str, Any]:
    verdict = second.verdicts.get(question)
    died, ran = second.counts[question]
    holds = verdict is not None and verdict.startswith("above" if dies else "below")
    return {"says": says, "died": died, "trials": ran, "verdict": verdict, "holds": holds}


def _certificate_line(one: Mapping[str, Any]) -> str:
    said = "holds" if one["holds"] else "does not hold" if one["verdict"] else "not decided"
    return f"{one['says']}: {one['died']}/{one['trials']} died, {said}"


def _doubt(search: Search) -> str:
    none = search.no_difference() if search.trials else 0.0
    return f", or no difference {words.percent(none)}" if none > DOUBT else ""


def no_difference(search: Search, left: int) -> str | None:
    """Why looking further is hopeless with so many trials left, or None."""
    if search.ends is None:
        return None
    good, worst = search.ends
    a_died, a = int(search.died[good]), int(search.ran[good])
    b_died, b = int(search.died[worst]), int(search.ran[worst])
    if min(a, b) < _LOOKED:
        return None
    if isinstance(search, Step) and search.direction == FALLING:
        a_died, a, b_died, b = b_died, b, a_died, a
    counts = f"{b_died}/{b} deaths at the bad end, {a_died}/{a} at the good end"
    most = compare.upper_difference(a_died, a, b_died, b)
    if most < 0:
        return f"hopeless: {counts}: is it the wrong way round?"
    if search.no_difference() > _SURE_OF_NONE:
        return f"hopeless: {counts}: one rate explains everything so far"
    if min(a, b) < LOOK:
        return None
    if most < GAP:
        return f"hopeless: {counts}: the bad end is not {GAP * 100:g} points worse"
    middle = (a_died + b_died) / (a + b)
    low = min(max(0.0, middle - most / 2), 1 - most)
    if (needed := search.least_left(low, low + most)) > left:
        return (
            f"hopeless: {counts}: were the bad end {most * 100:.0f} points worse, the most that "
            f"leaves possible, {needed:.0f} more trials would be needed, and {left} are allowed"
        )
    return None


# --- between two configurations ------------------------------------------------------------


def settings(good: Cell, worse: Cell) -> list[tuple[str, Any, Any]]:
    """(key, good value, bad value) of every setting in which two configurations differ.

    Raises:
        BadInput: none, or more than a search can tell apart.
    """
    one, other = _dump(good), _dump(worse)
    found = list(_differences("", one, other))
    if not found:
        raise bad("--good, --bad", "the two configurations are the same", "two that differ")
    if len(found) > MOST:
        raise bad("--good, --bad", f"{len(found)} settings differ", f"at most {MOST}")
    return found


def _dump(cell: Cell) -> dict[str, Any]:
    experiment = cell.experiment.model_dump()
    for key in ("name", "about", "expect"):
        experiment.pop(key, None)
    return {
        **experiment, "machine": cell.machine.model_dump(), "neighbours": cell.neighbours.model_dump(),
    }  # fmt: skip


def _differences(prefix: str, one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from _differences(f"{prefix}.{key}" if prefix else key, one[key], other[key])
    elif one != other:
        yield prefix, one, other


def culprit(good: Cell, worse: Cell, *, seed: int) -> Hunt:
    """The minimal set of settings that kills, then trials that certify it."""
    changed = settings(good, worse)
    made: dict[int, Cell | None] = {}

    def cell(mask: int) -> Cell | None:
        if mask not in made:
            made[mask] = mixed(good, worse, changed, mask)
        return made[mask]

    search = Culprit(len(changed), seed=seed, allowed=lambda mask: cell(mask) is not None)

    def then() -> Certify | None:
        checks = [
            c for c in certification(search.answer, len(changed)) if c.mask in search.questions
        ]
        rule = _between(*search.rates())
        return Certify([search.index(c.mask) for c in checks], rule) if checks else None

    def after() -> float:
        checks = certification(search.answer, len(changed))
        die = sum(c.dies for c in checks)
        return _certifying(search.rates(), live=len(checks) - die, die=die)

    chain = Chain(search, then, after)

    def named(index: int) -> str:
        key, a, b = changed[index]
        return f"{key}: {words.value(key, a)} -> {words.value(key, b)}"

    def sentence() -> str:
        joint = {"and": " together with ", OR: " or "}.get(search.answer.kind, "")
        return joint.join(changed[i][0] for i in search.answer.settings)

    def say() -> str:
        said = f"{sentence()} {words.percent(search.best[1])}{_doubt(search)}"
        if not search.done:
            return said
        return said if chain.done else f"{said}, being certified"

    def shown(q: int) -> str:
        mask = search.questions[q]
        taken = [i for i in range(len(changed)) if mask >> i & 1]
        if not taken or len(taken) == len(changed):
            return "all as in the bad one" if taken else "all as in the good one"
        new = [f"{changed[i][0]}={words.value(changed[i][0], changed[i][2])}" for i in taken]
        return f"only {' '.join(new)}"

    def answer() -> Answer:
        found, confidence = search.answer, search.best[1]
        certified, lines = [], [_DO_IT[found.kind], *(f"  {named(i)}" for i in found.settings)]
        passed = chain.second is not None
        for check in certification(found, len(changed)):
            if chain.second is None or check.mask not in search.questions:
                continue
            says = check.says.format(names=[key for key, _, _ in changed])
            one = _certificate(chain.second, search.index(check.mask), says, dies=check.dies)
            passed = passed and one["holds"]
            certified.append(one)
            lines.append(_certificate_line(one))
        value = {
            "kind": found.kind,
            "settings": [
                {"what": changed[i][0], "good": changed[i][1], "bad": changed[i][2]}
                for i in found.settings
            ],
            "differ": [key for key, _, _ in changed],
            "certified": certified,
        }
        return Answer(value, confidence, tuple(lines), found=chain.done and passed)

    def question(q: int) -> Cell:
        found = cell(search.questions[q])
        assert found is not None  # only allowed sets are questions
        return found

    return Hunt(
        "culprit", chain, len(search.questions), question, say, answer,
        lambda left: no_difference(search, left), shown,
    )  # fmt: skip


def mixed(
    good: Cell, worse: Cell, changed: Sequence[tuple[str, Any, Any]], mask: int
) -> Cell | None:
    """The good configuration with some settings of the bad one; None where they do not fit."""
    document = _dump(good)
    config: dict[str, Any] = {}
    for i, (key, one, other) in enumerate(changed):
        taken = other if mask >> i & 1 else one
        config[key] = taken if isinstance(taken, (int, float, str, type(None))) else repr(taken)
        _put(document, key.split("."), taken)
    machine, neighbours = document.pop("machine"), document.pop("neighbours")
    try:
        return Cell(
            name=f"mix-{mask:0{len(changed)}b}",
            config=config,
            experiment=type(good.experiment).model_validate(
                {"name": good.experiment.name, **document}
            ),
            machine=type(good.machine).model_validate(machine),
            neighbours=type(good.neighbours).model_validate(neighbours),
        )
    except ValueError:
        # Pydantic's refusal: these settings exclude each other.
        return None


def _put(document: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


def one_cell(path: str, overrides: Sequence[str]) -> tuple[Loaded, Cell]:
    """A file that is one configuration.

    Raises:
        BadInput: it has several cells.
    """
    loaded = spec.load(path, overrides)
    found = matrix.cells(loaded)
    if len(found) != 1:
        raise bad(
            path, f"{len(found)} cells", "one configuration: an experiment, or -o for each axis"
        )
    return loaded, found[0]


def from_mapping(found: Mapping[str, Any]) -> tuple[Loaded, Cell]:
    """The same from what a campaign has frozen."""
    loaded = spec.thaw(found)
    return loaded, matrix.cells(loaded)[0]
