"""Trees of whole documents: `extends`, setting a key, paths made absolute, scripts read.

Rule: trees in, trees out; problems are collected, nothing is raised for a user's mistake.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, get_args, get_origin

from harness.errors import Problem
from harness.model.container import ImageSpec
from harness.model.experiment import Script
from harness.spec import keys
from harness.spec.complaints import legible, place, seen
from harness.spec.files import Files, NoText
from harness.spec.nodes import (
    Items,
    Mark,
    Node,
    Path,
    Scalar,
    Table,
    Unreadable,
    nearest,
    parse,
    put,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel

DEEPEST_EXTENDS = 8

ALTERNATIVES: dict[type[BaseModel], tuple[str, ...]] = {
    ImageSpec: ("rootfs", "ref", "build"),
    Script: ("script", "run"),
}
"""Keys of which a noun has exactly one: setting one takes the others away."""


@dataclass(slots=True)
class Desk:
    """What one loading has at hand.

    Attributes:
        files: Where text comes from.
        cwd: What paths on the command line are relative to.
    """

    files: Files
    cwd: str
    _found: dict[Problem, None] = field(default_factory=dict)

    @property
    def problems(self) -> list[Problem]:
        """Everything found so far, each once, in the order it was met."""
        return list(self._found)

    @property
    def count(self) -> int:
        """How many problems there are."""
        return len(self._found)

    def add(self, problems: Iterable[Problem]) -> None:
        """Take problems that were worded elsewhere."""
        self._found.update(dict.fromkeys(problems))

    def show(self, file: str) -> str:
        """A file name as the user would type it."""
        prefix = self.cwd.rstrip("/") + "/"
        return file.removeprefix(prefix)

    def complain(self, mark: Mark, what: str, why: str, fix: str) -> None:
        self.add([Problem(place(mark, self.show), legible(what), legible(why), legible(fix))])

    def absolute(self, value: str, mark: Mark) -> str:
        """A path relative to the file (or the directory of the command) it stands in."""
        base = self.cwd if mark.file.startswith("-o") else posixpath.dirname(mark.file)
        return posixpath.normpath(posixpath.join(base, value))


def kind_of_file(tree: Table) -> str:
    """ "matrix" or "experiment", by the keys that only one of them has."""
    if {"container", "pre_task", "setup", "remount"} & set(tree.entries):
        return "experiment"
    return "matrix"


def read_tree(desk: Desk, path: str, asked: Mark | None) -> Table | None:
    """A document with everything it extends merged below it; None when it can not be had."""
    return _read(desk, path, asked, ())


def _read(desk: Desk, path: str, asked: Mark | None, above: tuple[str, ...]) -> Table | None:
    at = asked or Mark(path)
    if path in above or len(above) >= DEEPEST_EXTENDS:
        loop = path in above
        why = "it extends itself" if loop else f"more than {DEEPEST_EXTENDS} files deep"
        desk.complain(at, f"extends: {desk.show(path)}", why, "break the chain")
        return None
    try:
        text = desk.files.read(path)
    except NoText as error:
        desk.complain(at, desk.show(path), error.why, error.fix)
        return None
    try:
        tree = parse(text, path, desk.show)
    except Unreadable as error:
        desk.add(error.problems)
        return None
    if not isinstance(tree, Table):
        desk.complain(tree.mark, seen(tree), "a file is a mapping of keys", "start with name:")
        return None
    if "extends" not in tree.entries:
        return tree
    given = tree.entries["extends"]
    bases = given.items if isinstance(given, Items) else (given,)
    merged: Table | None = None
    for base in bases:
        if not isinstance(base, Scalar) or not isinstance(base.value, str):
            desk.complain(base.mark, f"extends: {seen(base)}", "not a path", "extends: base.yaml")
            continue
        below = _read(desk, desk.absolute(base.value, base.mark), base.mark, (*above, path))
        if below is not None:
            merged = below if merged is None else _join(merged, below)
    own = Table(
        {key: node for key, node in tree.entries.items() if key != "extends"}, tree.keys, tree.mark
    )
    return own if merged is None else _join(merged, own)


def _join(base: Table, over: Table) -> Table:
    kinds = {kind_of_file(base), kind_of_file(over)}
    return merge(base, over, keys.model_of("experiment" if "experiment" in kinds else "matrix"))


def merge(base: Table, over: Table, kind: Any) -> Table:
    """`over` wins. Mappings are merged key by key, lists and values replaced."""
    inner = keys.bare(kind)
    entries, marks = dict(base.entries), dict(base.keys)
    _drop_alternatives(inner, tuple(over.entries), entries)
    for key, node in over.entries.items():
        old = entries.get(key)
        if isinstance(old, Table) and isinstance(node, Table):
            try:
                below = keys.step_into(inner, key)
            except keys.NoSuchKey:
                below = dict[str, Any]
            node = merge(old, node, below)
        entries[key] = node
        marks[key] = over.keys[key]
    return Table(entries, marks, over.mark)


def _drop_alternatives(kind: Any, given: tuple[str, ...], entries: dict[str, Node]) -> None:
    for noun, group in ALTERNATIVES.items():
        if isinstance(kind, type) and issubclass(kind, noun) and set(group) & set(given):
            for key in group:
                if key not in given:
                    entries.pop(key, None)


class NoSuchItem(LookupError):
    """A number that is not in a list."""


def set_at(tree: Table, model: type[BaseModel], path: Path, value: Node) -> Table:
    """The tree with `value` at `path`, which is a key of `model`.

    Raises:
        NoSuchItem: the path goes through a list that is not that long.
    """
    result: Node = tree
    for depth in range(1, len(path)):
        node, _, reached = nearest(result, path[:depth])
        inner = keys.bare(keys.type_at(model, path[:depth]))
        if reached < depth:
            if isinstance(node, Items) or get_origin(inner) is tuple:
                step = path[reached] if isinstance(node, Items) else path[depth]
                raise NoSuchItem(f"there is no number {step} in that list")
            break
        sugar = getattr(inner, "sugar", None)
        if isinstance(node, Scalar) and sugar is not None and node.value is not None:
            table = Table({sugar: node}, {sugar: node.mark}, node.mark)
            result = put(result, path[:depth], table, node.mark)
        elif isinstance(node, Table):
            entries = dict(node.entries)
            _drop_alternatives(inner, (str(path[depth]),), entries)
            result = put(result, path[:depth], Table(entries, node.keys, node.mark), node.mark)
    parent, _, reached = nearest(result, path[:-1])
    if reached == len(path) - 1 and isinstance(parent, Items):
        step = str(path[-1])
        if not (step.isascii() and step.isdigit()) or int(step[:6]) >= len(parent.items):
            raise NoSuchItem(f"there is no number {step} in that list")
    done = put(result, path, value, value.mark)
    assert isinstance(done, Table)
    return done


@cache
def _field_types(model: type[BaseModel]) -> dict[str, tuple[Any, bool]]:
    """key → (type, whether anything below it can hold a path)."""
    found = {}
    for key, info in keys.fields(model).items():
        kind = keys.whole_type(info)
        found[key] = (kind, _has_paths(kind))
    return found


def _has_paths(kind: Any) -> bool:
    if keys.marker(kind) is not None:
        return True
    inner = keys.bare(kind)
    if keys.is_noun(inner):
        return issubclass(inner, Script) or any(deep for _, deep in _field_types(inner).values())
    if get_origin(inner) in {tuple, dict}:
        return any(_has_paths(arg) for arg in get_args(inner) if arg is not Ellipsis)
    return False


def complete(desk: Desk, node: Node, kind: Any, path: Path = ()) -> Node:
    """Paths made absolute and checked, scripts read, below a node of type `kind`."""
    mark = keys.marker(kind)
    if mark is not None:
        if isinstance(node, Scalar) and isinstance(node.value, str) and node.value != "none":
            return _path(desk, node, mark.bare, mark.must_exist, path)
        return node
    inner = keys.bare(kind)
    if keys.is_noun(inner) and isinstance(node, Table):
        types = _field_types(inner)
        entries = dict(node.entries)
        for key, child in node.entries.items():
            below, deep = types.get(key, (None, False))
            if deep:
                entries[key] = complete(desk, child, below, (*path, key))
        table = Table(entries, node.keys, node.mark)
        return _script(desk, table, path) if issubclass(inner, Script) else table
    if get_origin(inner) is tuple and isinstance(node, Items):
        below = get_args(inner)[0]
        if not _has_paths(below):
            return node
        items = tuple(complete(desk, item, below, (*path, i)) for i, item in enumerate(node.items))
        return Items(items, node.mark)
    return node


def _path(desk: Desk, node: Scalar, bare: bool, must_exist: str | None, path: Path) -> Scalar:
    name = ".".join(map(str, path))
    value = str(node.value)
    if bare and "/" not in value and not value.startswith("."):
        if value != "busybox":
            desk.complain(
                node.mark,
                f"{name}: {seen(node)}",
                "the only root file system known by name is busybox",
                f"busybox, or a path such as ./{value}",
            )
        return node
    if value.startswith("~"):
        desk.complain(
            node.mark, f"{name}: {seen(node)}", "~ is the shell's, not YAML's", "the whole path"
        )
        return node
    full = desk.absolute(value, node.mark)
    if must_exist is not None:
        there = desk.files.kind(full)
        if there is None:
            noun = "file or directory" if must_exist == "any" else must_exist
            where = desk.show(posixpath.dirname(full))
            desk.complain(
                node.mark,
                f"{name}: {seen(node)}",
                f"there is no such {noun} in {where}",
                "check the path: it is relative to the file it stands in",
            )
        elif "any" not in {there, must_exist} and there != must_exist:
            desk.complain(
                node.mark, f"{name}: {seen(node)}", f"that is a {there}", f"name a {must_exist}"
            )
    return Scalar(full, node.text, node.mark)


def _script(desk: Desk, table: Table, path: Path) -> Table:
    name = ".".join(map(str, path))
    given = table.entries.get("script")
    if given is None:
        return table
    if "run" in table.entries:
        desk.complain(
            table.keys["run"],
            f"{name}.run: {seen(table.entries['run'])}",
            "script: and run: are two ways to say what runs",
            "keep one of them",
        )
        return table
    if not isinstance(given, Scalar) or not isinstance(given.value, str):
        return table
    if desk.files.kind(given.value) not in {"file", "any"}:
        text = "exit 1"  # already complained about; nothing more to say about its content
    else:
        try:
            text = desk.files.read(given.value)
        except NoText as error:
            desk.complain(given.mark, f"{name}.script: {given.text}", error.why, error.fix)
            text = "exit 1"
        if not text.strip() or "\0" in text:
            why = "the script is empty" if not text.strip() else "there is a NUL in the script"
            desk.complain(given.mark, f"{name}.script: {given.text}", why, "write what is to run")
            text = "exit 1"
    run = Scalar(text, text, Mark(given.value, 1))
    return Table({**table.entries, "run": run}, {**table.keys, "run": given.mark}, table.mark)
