"""A matrix or an experiment, loaded: every problem of every file in one report.

Rule: the last place that sees YAML. What leaves here is complete and frozen: `Loaded`
can be made again from its own `files`, `main` and `overrides`, without a disk.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from pathlib import Path as DiskPath
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from harness.errors import BadInput, Problem
from harness.model.experiment import Experiment, MachineSpec, Matrix, Neighbours
from harness.spec import keys
from harness.spec.axes import (
    Axis,
    Pattern,
    Value,
    read_axes,
    read_control,
    read_patterns,
    show_value,
)
from harness.spec.complaints import explain, legible, place, seen
from harness.spec.files import Disk, Files, Frozen
from harness.spec.nodes import Items, Node, Scalar, Table, nearest, plain, put
from harness.spec.overrides import Change, Trees, apply, axis_keys
from harness.spec.tree import Desk, NoSuchItem, complete, kind_of_file, read_tree, set_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OWN = ("axes", "exclude", "include", "control", "experiment")
"""The keys of a matrix that are read by hand, not by the model."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A matrix with its experiment, checked.

    Attributes:
        matrix: Axes, exclude and include as plain values.
        experiment: The base: no axis applied.
        main: The file that was asked for, absolute.
        cwd: What the overrides' relative paths are relative to.
        files: Path → text of everything that was read.
        overrides: As they were given; `changes` is what they did.
        axes, exclude, include, control: For `matrix`.
    """

    matrix: Matrix
    experiment: Experiment
    main: str
    cwd: str
    files: Mapping[str, str]
    overrides: tuple[str, ...]
    changes: tuple[Change, ...]
    axes: tuple[Axis, ...]
    exclude: tuple[Pattern, ...]
    include: tuple[Pattern, ...]
    control: Pattern | None
    trees: Trees = field(repr=False)

    def frozen(self) -> dict[str, Any]:
        """What `thaw` needs: plain JSON-able values."""
        return {
            "main": self.main,
            "cwd": self.cwd,
            "files": dict(self.files),
            "overrides": list(self.overrides),
        }


@dataclass(frozen=True, slots=True)
class Built:
    """One configuration: the axes' values put into the documents."""

    experiment: Experiment
    machine: MachineSpec
    neighbours: Neighbours


def load_matrix(path: str | DiskPath, overrides: Iterable[str] = ()) -> Loaded:
    """Read a matrix and the experiment it names from the disk.

    Raises:
        BadInput: with every problem found.
    """
    return _load(Disk(), _absolute(path), _here(), tuple(overrides), "matrix")


def load_experiment(path: str | DiskPath, overrides: Iterable[str] = ()) -> Loaded:
    """Read an experiment as a matrix of one cell; overrides may add axes and trials.

    Raises:
        BadInput: with every problem found.
    """
    return _load(Disk(), _absolute(path), _here(), tuple(overrides), "experiment")


def load(path: str | DiskPath, overrides: Iterable[str] = ()) -> Loaded:
    """Read either kind; which one it is shows in its keys.

    Raises:
        BadInput: with every problem found.
    """
    return _load(Disk(), _absolute(path), _here(), tuple(overrides), None)


def loads_matrix(
    files: Mapping[str, str], main: str, overrides: Iterable[str] = (), cwd: str = "/"
) -> Loaded:
    """The same from texts by path: pure, no disk. `main` is a key of `files`; either kind.

    Raises:
        BadInput: with every problem found.
    """
    return _load(Frozen(files), main, cwd, tuple(overrides), None)


def thaw(frozen: Mapping[str, Any]) -> Loaded:
    """What `Loaded.frozen` gave, loaded again.

    Raises:
        BadInput: the files were changed by hand into something that is wrong.
    """
    return loads_matrix(frozen["files"], frozen["main"], frozen["overrides"], frozen["cwd"])


def _here() -> str:
    return str(DiskPath.cwd())


def _absolute(path: str | DiskPath) -> str:
    return posixpath.normpath(posixpath.join(_here(), str(path)))


def _load(
    files: Files, main: str, cwd: str, overrides: tuple[str, ...], kind: str | None
) -> Loaded:
    desk = Desk(files, cwd)
    about = desk.show(main)
    if "\0" in main:
        raise BadInput([Problem(repr(main), "a file name", "there is a NUL in it", "remove it")])
    tree = read_tree(desk, main, None)
    if tree is None:
        raise BadInput(desk.problems, about=about)
    _check_kind(desk, tree, kind)
    trees = _documents(desk, tree, kind or kind_of_file(tree))
    if trees is None:
        raise BadInput(desk.problems, about=about)
    trees, changes = apply(desk, trees, overrides)
    matrix = _matrix(desk, trees.matrix)
    experiment = _experiment(desk, trees.experiment)
    axes = read_axes(desk, trees.matrix.entries.get("axes"))
    declared = axis_keys(trees.matrix.entries.get("axes"))
    exclude = read_patterns(desk, trees.matrix.entries.get("exclude"), "exclude", axes, declared)
    include = read_patterns(desk, trees.matrix.entries.get("include"), "include", axes, declared)
    control = read_control(desk, trees.matrix.entries.get("control"), axes, declared)
    if desk.problems or matrix is None or experiment is None:
        raise BadInput(_in_order(desk.problems), about=about)
    matrix = matrix.model_copy(
        update={
            "axes": {axis.key: tuple(v.plain for v in axis.values) for axis in axes},
            "exclude": _plain_patterns(exclude),
            "include": _plain_patterns(include),
            "control": None if control is None else _plain_point(control),
        }
    )
    return Loaded(
        matrix, experiment, main, cwd, dict(files.texts), overrides, tuple(changes),
        axes, exclude, include, control, trees,
    )  # fmt: skip


def _in_order(problems: list[Problem]) -> list[Problem]:
    """By file in the order they were met, then by line."""
    files: dict[str, int] = {}
    placed = []
    for number, problem in enumerate(problems):
        file, _, line = problem.where.rpartition(":")
        if not line.isdigit():
            file, line = problem.where, "0"
        placed.append((files.setdefault(file, len(files)), int(line), number, problem))
    return [problem for *_, problem in sorted(placed, key=lambda item: item[:3])]


def _plain_patterns(patterns: tuple[Pattern, ...]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {key: tuple(v.plain for v in values) for key, values in pattern.wants.items()}
        for pattern in patterns
    )


def _plain_point(pattern: Pattern) -> dict[str, Any]:
    return {key: values[0].plain for key, values in pattern.wants.items()}


def _check_kind(desk: Desk, tree: Table, kind: str | None) -> None:
    is_kind = kind_of_file(tree)
    if kind == "matrix" and is_kind == "experiment" and "experiment" not in tree.entries:
        desk.complain(
            tree.mark,
            "an experiment",
            "a matrix is needed here: it names an experiment and the axes to sweep",
            "use the verb run for an experiment, or write a matrix",
        )
        raise BadInput(desk.problems)
    if kind == "experiment" and is_kind == "matrix" and "experiment" in tree.entries:
        desk.complain(
            tree.mark,
            "a matrix",
            "an experiment is needed here",
            "use the verb sweep for a matrix",
        )
        raise BadInput(desk.problems)


def _documents(desk: Desk, tree: Table, kind: str) -> Trees | None:
    if kind == "experiment":
        name = tree.entries.get("name") or Scalar("experiment", "experiment", tree.mark)
        good = isinstance(name, Scalar) and isinstance(name.value, str)
        named = name if good else Scalar("experiment", "experiment", tree.mark)
        trials = Scalar(1, "1", tree.mark)
        table = Table(
            {"name": named, "trials": trials}, {"name": tree.mark, "trials": tree.mark}, tree.mark
        )
        # A bad name is the experiment's problem, not reported a second time for the matrix.
        return Trees(_safe_name(table), tree)
    given = tree.entries.get("experiment")
    match given:
        case None:
            desk.complain(
                tree.mark,
                "experiment: missing",
                "a matrix sweeps an experiment",
                "add experiment: ../experiments/my-experiment.yaml",
            )
        case Table():
            return Trees(tree, given)
        case Scalar(value=str() as path):
            found = read_tree(desk, desk.absolute(path, given.mark), given.mark)
            if found is not None:
                return Trees(tree, found)
        case _:
            desk.complain(
                given.mark,
                f"experiment: {seen(given)}",
                "the path of an experiment is needed",
                "experiment: ../experiments/my-experiment.yaml",
            )
    # Without an experiment the matrix's own problems are still worth telling.
    _matrix(desk, tree)
    return None


def _safe_name(table: Table) -> Table:
    node = table.entries["name"]
    try:
        keys.adapter(Matrix, ("name",)).validate_python(plain(node))
    except ValidationError:
        fallback = Scalar("experiment", "experiment", table.mark)
        return Table({**table.entries, "name": fallback}, table.keys, table.mark)
    return table


def _matrix(desk: Desk, tree: Table) -> Matrix | None:
    entries = {key: node for key, node in tree.entries.items() if key not in OWN}
    own = Table(entries, tree.keys, tree.mark)
    done = complete(desk, own, Matrix)
    try:
        return Matrix.model_validate(plain(done), context={"text": True})
    except ValidationError as error:
        desk.add(explain(error, done, Matrix, show=desk.show))
        return None


def _experiment(desk: Desk, tree: Table) -> Experiment | None:
    done = _implied(complete(desk, tree, Experiment))
    try:
        return Experiment.model_validate(plain(done), context={"text": True})
    except ValidationError as error:
        desk.add(explain(error, done, Experiment, show=desk.show))
        return None


def _implied(tree: Node) -> Node:
    """What `propagate` needs and nobody should have to know: a mount that hears of changes.

    A private mount (docker's default) never would; the other remounts get docker's default,
    since docker refuses rslave where the source is not shared on the machine.
    """
    how, _, depth = nearest(tree, ("remount", "how"))
    if not isinstance(how, Scalar) or how.value != "propagate" or depth == 0:
        return tree
    target, _, there = nearest(tree, ("remount", "target"))
    mounts, _, found = nearest(tree, ("container", "mounts"))
    if there < 2 or found < 2 or not isinstance(mounts, Items) or not isinstance(target, Scalar):
        return tree
    for index, mount in enumerate(mounts.items):
        if not isinstance(mount, Table) or {"propagation", "volume"} & set(mount.entries):
            continue
        own = mount.entries.get("target")
        if isinstance(own, Scalar) and own.value == target.value:
            path = ("container", "mounts", index, "propagation")
            return put(tree, path, Scalar("rslave", "rslave", how.mark), how.mark)
    return tree


class Workshop:
    """Builds one configuration after another from one `Loaded`."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.files = Frozen(loaded.files)
        self.desk = Desk(self.files, loaded.cwd)
        self._owners = {axis.key: axis.owner for axis in loaded.axes}

    def build(self, chosen: Mapping[str, Value]) -> Built | list[Problem]:
        """The nouns with each axis at its chosen value, or what forbids this combination."""
        trees = self.loaded.trees
        matrix, experiment = trees.matrix, trees.experiment
        for key, value in chosen.items():
            path = tuple(key.split("."))
            try:
                if self._owners[key] == "matrix":
                    matrix = set_at(matrix, Matrix, path, value.node)
                else:
                    experiment = set_at(experiment, Experiment, path, value.node)
            except NoSuchItem as error:
                where = place(value.node.mark, self.desk.show)
                return [Problem(where, f"axes.{key}", str(error), "a number that is there")]
        self.desk = Desk(self.files, self.loaded.cwd)
        problems: list[Problem] = []
        built = _experiment(self.desk, experiment)
        places = _matrix(self.desk, self._small(matrix))
        if built is not None and places is not None:
            machine = places.machine
            problems = self._together(built, machine, experiment, matrix)
        problems = [*self.desk.problems, *problems]
        if problems or built is None or places is None:
            return [self._blame(problem, chosen) for problem in problems]
        return Built(built, places.machine, places.neighbours)

    def _small(self, matrix: Table) -> Table:
        kept = {k: n for k, n in matrix.entries.items() if k in {"name", *keys.SWEPT_IN_MATRIX}}
        return Table(kept, matrix.keys, matrix.mark)

    def _together(
        self, experiment: Experiment, machine: MachineSpec, tree: Table, matrix: Table
    ) -> list[Problem]:
        """What the experiment and the machine must agree on."""
        found = []

        def say(doc: Node, path: tuple[str, ...], what: str, why: str, fix: str) -> None:
            _, mark, _ = nearest(doc, path)
            found.append(Problem(place(mark, self.desk.show), what, why, fix))

        if machine.kind == "host" and experiment.inject and not (experiment.own or machine.own):
            say(
                tree, ("inject",), "inject",
                "on an engine that the harness did not start, it would break somebody's work",
                "use a pen, or say own: true if the engine may be broken",
            )  # fmt: skip
        limit, size = experiment.container.memory_reservation, machine.memory
        if limit is not None and size is not None and limit > size:
            say(
                matrix, ("machine", "memory"), "machine.memory",
                "the container reserves more than the machine has",
                "a larger machine, or a smaller container.memory_reservation",
            )  # fmt: skip
        for index, injection in enumerate(experiment.inject):
            if injection.what in {"clock-step", "power-cut", "suspend"} and machine.kind in {
                "pen",
                "host",
            }:
                say(
                    tree, ("inject", str(index), "what"), f"inject.{index}.what",
                    f"a {machine.kind} shares its clock and its power with this host",
                    "machine: {kind: vm}",
                )  # fmt: skip
        return found

    def _blame(self, problem: Problem, chosen: Mapping[str, Value]) -> Problem:
        """Name the combination, at the line of the value that is likeliest at fault.

        Each value alone was fine. The problem is told where the nouns found it; when an
        axis changes something under the same key, it is that value's line that helps.
        """
        if not chosen:
            return problem
        marks = {key: value.node.mark for key, value in chosen.items()}
        shown = {key: place(mark, self.desk.show) for key, mark in marks.items()}
        top = problem.what.partition(":")[0].split(".", 1)[0]
        near = [where for key, where in shown.items() if key.split(".", 1)[0] == top]
        where = problem.where
        if near and where not in shown.values():
            where = near[-1]
        cell = ", ".join(
            f"{axis.key}={show_value(chosen[axis.key].plain, axis.unit)}"
            for axis in self.loaded.axes
        )
        what = f"{problem.what} (in cell {legible(cell)})"
        return Problem(where, what, problem.why, problem.fix)
