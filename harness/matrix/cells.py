"""The points of a matrix: the axes multiplied, less exclude, plus include and control, each built.

Rule: a cell that can not be built is a problem of the file, told before anything runs.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from harness.errors import BadInput, Problem
from harness.spec import Axis, Loaded, Value, Workshop, show_value
from harness.spec.axes import Pattern, identity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from harness.model.experiment import Experiment, MachineSpec, Neighbours

LONGEST_NAME = 96
MOST_POINTS = 100_000
"""The product of all axes before exclude: above it nobody meant what is written."""

Point = tuple[Any, ...]
"""What tells one configuration from another: the plain values in the axes' order."""

ONLY = "base"
"""The name of the one cell of a matrix without axes."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One configuration.

    Attributes:
        name: Directory name, stable.
        config: Axis → plain value.
        control: It is there to show drift.
    """

    name: str
    config: Mapping[str, Any]
    experiment: Experiment
    machine: MachineSpec
    neighbours: Neighbours
    control: bool = False


def cells(loaded: Loaded) -> tuple[Cell, ...]:
    """Every cell, in the order of the file: the last axis changes fastest.

    Raises:
        BadInput: no cell at all, too many, an exclude that excludes nothing, a
            combination that its keys refuse.
    """
    problems: list[Problem] = []
    chosen = list(_chosen(loaded, problems))
    if problems:
        raise BadInput(problems)
    names = names_of(loaded.axes, chosen)
    workshop = Workshop(loaded)
    found = []
    told: dict[tuple[str, str], Problem] = {}
    for name, point in zip(names, chosen, strict=True):
        built = workshop.build(point)
        if isinstance(built, list):
            # One combination stands for all that fail at the same place for the same reason.
            for problem in built:
                told.setdefault((problem.where, problem.why), problem)
            continue
        config = {key: value.plain for key, value in point.items()}
        found.append(
            Cell(
                name, config, built.experiment, built.machine, built.neighbours,
                control=config == loaded.matrix.control,
            )
        )  # fmt: skip
    if told:
        raise BadInput(told.values())
    shrinking = _disk_that_shrinks(loaded, found)
    if shrinking is not None:
        raise BadInput([shrinking])
    return tuple(found)


def _disk_that_shrinks(loaded: Loaded, found: Sequence[Cell]) -> Problem | None:
    """A profile of the user's has one disk for all blocks, and it only grows."""
    machines = [cell.machine for cell in found if cell.machine.profile and cell.machine.own]
    if len({machine.disk for machine in machines}) < 2:
        return None
    axis = next((axis for axis in loaded.axes if axis.key == "machine.disk"), None)
    return Problem(
        _where(loaded) if axis is None else _relative(loaded, axis.mark),
        f"several disks for the colima profile {machines[0].profile}",
        "the disk of a profile only grows, and blocks come in any order",
        "one size; or leave `profile` out: a profile of the harness's own is made for each size",
    )


def _chosen(loaded: Loaded, problems: list[Problem]) -> Iterator[dict[str, Value]]:
    axes = loaded.axes
    where = _where(loaded)
    size = math.prod(len(axis.values) for axis in axes)
    most = loaded.matrix.max_cells
    if size > MOST_POINTS:
        problems.append(_too_many(where, size, most, loaded))
        return
    points: dict[Point, dict[str, Value]] = {}
    used = [False] * len(loaded.exclude)
    wanted = [_wanted(pattern) for pattern in loaded.exclude]
    for values in product(*(axis.values for axis in axes)):
        point = {axis.key: value for axis, value in zip(axes, values, strict=True)}
        hits = [i for i, wants in enumerate(wanted) if _matches(wants, point)]
        for index in hits:
            used[index] = True
        if not hits:
            points[_place(point)] = point
    # An override that narrows an axis may leave an exclude of the file nothing to do.
    narrowed = {axis.key for axis in axes if axis.mark.file.startswith("-o")}
    for pattern, was_used in zip(loaded.exclude, used, strict=True):
        if not was_used and not narrowed & set(pattern.wants):
            problems.append(
                Problem(
                    _mark(loaded, pattern),
                    f"exclude: {pattern.text}",
                    "it matches no cell, so it does not do what it was written for",
                    "the values as they stand in axes, or remove it",
                )
            )
    for pattern in loaded.include:
        before = len(points)
        lists = [pattern.wants.get(axis.key, axis.values) for axis in axes]
        if math.prod(map(len, lists)) > MOST_POINTS:
            problems.append(_too_many(where, math.prod(map(len, lists)), most, loaded))
            return
        # The axes that an include does not name take all their values.
        for values in product(*lists):
            point = {axis.key: value for axis, value in zip(axes, values, strict=True)}
            points.setdefault(_place(point), point)
        if len(points) == before:
            problems.append(
                Problem(
                    _mark(loaded, pattern),
                    f"include: {pattern.text}",
                    "every cell of it is there already",
                    "remove it",
                )
            )
    if loaded.control is not None:
        # Part of the table already, or a cell of its own.
        point = {axis.key: loaded.control.wants[axis.key][0] for axis in axes}
        points.setdefault(_place(point), point)
    if len(points) > most:
        problems.append(_too_many(where, len(points), most, loaded))
    elif not points:
        problems.append(
            Problem(where, "no cells", "exclude leaves nothing to run", "exclude fewer")
        )
    else:
        yield from points.values()


def _where(loaded: Loaded) -> str:
    prefix = loaded.cwd.rstrip("/") + "/"
    return loaded.main.removeprefix(prefix)


def _mark(loaded: Loaded, pattern: Pattern) -> str:
    return _relative(loaded, pattern.mark)


def _relative(loaded: Loaded, mark: object) -> str:
    return str(mark).removeprefix(loaded.cwd.rstrip("/") + "/")


def _too_many(where: str, size: int, most: int, loaded: Loaded) -> Problem:
    shape = " x ".join(f"{len(axis.values)} {axis.key}" for axis in loaded.axes)
    return Problem(
        where,
        f"{size} cells ({shape})",
        f"more than {most}: weeks of trials, and a table that nobody reads",
        f"fewer values, exclude, or max_cells: {size}",
    )


def _wanted(pattern: Pattern) -> dict[str, frozenset[Any]]:
    return {
        key: frozenset(identity(value.plain) for value in values)
        for key, values in pattern.wants.items()
    }


def _matches(wants: Mapping[str, frozenset[Any]], point: Mapping[str, Value]) -> bool:
    return all(identity(point[key].plain) in values for key, values in wants.items())


def _place(point: Mapping[str, Value]) -> Point:
    return tuple(identity(value.plain) for value in point.values())


def short_names(keys: tuple[str, ...]) -> dict[str, str]:
    """Each key's shortest tail that no other key shares.

    >>> short_names(("machine.memory", "container.memory", "remount.how"))
    {'machine.memory': 'machine.memory', 'container.memory': 'container.memory', 'remount.how': 'how'}
    """
    found = {}
    for key in keys:
        parts = key.split(".")
        for take in range(1, len(parts) + 1):
            tail = ".".join(parts[-take:])
            others = [k for k in keys if k != key and (k == tail or k.endswith("." + tail))]
            if not others:
                break
        found[key] = tail
    return found


def names_of(axes: tuple[Axis, ...], points: list[dict[str, Value]]) -> list[str]:
    """A directory name for each point: readable, and unlike every other one's.

    A name is cut when it is long; what was cut, or looks like another's, gets the hash of
    its whole configuration, so that it depends on nothing but that configuration.
    """
    short = short_names(tuple(axis.key for axis in axes))
    plain = [_name(axes, short, point) for point in points]
    counts: dict[str, int] = {}
    for name, _ in plain:
        # Some file systems take A and a for one name.
        counts[name.lower()] = counts.get(name.lower(), 0) + 1
    names = []
    for (name, exact), point in zip(plain, points, strict=True):
        if exact and counts[name.lower()] == 1:
            names.append(name)
            continue
        whole = repr([(axis.key, point[axis.key].plain) for axis in axes])
        digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
        names.append(f"{name[: LONGEST_NAME - 9].rstrip('.')}~{digest}")
    return names


def _name(
    axes: tuple[Axis, ...], short: Mapping[str, str], point: Mapping[str, Value]
) -> tuple[str, bool]:
    if not axes:
        return ONLY, True
    parts, exact = [], True
    for axis in axes:
        shown = show_value(point[axis.key].plain, axis.unit)
        safe = re.sub(r"[^A-Za-z0-9.+-]+", "-", shown).strip("-.") or "empty"
        # A leading minus is part of a delay's value.
        safe = f"-{safe}" if shown.startswith("-") and safe == shown[1:] else safe
        exact = exact and safe == shown
        key = re.sub(r"[^A-Za-z0-9._-]+", "-", short[axis.key])
        exact = exact and key == short[axis.key]
        parts.append(f"{key}={safe}")
    name = "_".join(parts)
    return (name, exact) if len(name) <= LONGEST_NAME else (name, False)
