"""`-o key=value[,value]`: what the command line changes, checked like the files.

Rule: an override goes into the tree before anything is validated, so it passes the same
checks; one that matches nothing is an error. Several values, or a range, make an axis.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness import units
from harness.model.experiment import Matrix
from harness.spec import keys
from harness.spec.complaints import seen
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
from harness.spec.tree import Desk, NoSuchItem, set_at


@dataclass(frozen=True, slots=True)
class Change:
    """What an override did: `key: old → new`."""

    key: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.key}: {self.old} → {self.new}"


@dataclass(frozen=True, slots=True)
class Trees:
    """The two documents of a sweep."""

    matrix: Table
    experiment: Table


LISTS_IN_MATRIX = frozenset({"exclude", "include"})


def apply(desk: Desk, trees: Trees, overrides: tuple[str, ...]) -> tuple[Trees, list[Change]]:
    """The documents with every override in place, and what changed."""
    changes: list[Change] = []
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        mark = Mark(f"-o {key}")
        if not equals or not key:
            desk.complain(Mark(f"-o {text}"), "no value", "an override is key=value", "key=value")
            continue
        nodes = _values(desk, key, value, mark)
        if nodes is None:
            continue
        done = _apply_one(desk, trees, key, nodes, mark)
        if done is not None:
            trees, change = done
            changes.append(change)
    return trees, changes


def split(text: str) -> list[str]:
    """Cut at commas that stand outside brackets and quotes.

    >>> split('64MiB,128MiB'), split('[sh,-c],"a,b"')
    (['64MiB', '128MiB'], ['[sh,-c]', '"a,b"'])
    """
    parts, depth, quote, begin = [], 0, "", 0
    for index, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        elif char == "," and depth <= 0:
            parts.append(text[begin:index])
            begin = index + 1
    return [*parts, text[begin:]]


def _values(desk: Desk, key: str, text: str, mark: Mark) -> tuple[Node, ...] | None:
    nodes: list[Node] = []
    for part in split(text):
        if not part.strip():
            desk.complain(mark, f'"{text}"', "an empty value", "write none for no limit")
            return None
        try:
            node = parse(part.strip(), mark.file)
        except Unreadable as error:
            problem = error.problems[0]
            desk.complain(mark, f'"{part}"', problem.why, problem.fix)
            return None
        nodes.append(_unmarked(node, mark))
    return tuple(nodes)


def _unmarked(node: Node, mark: Mark) -> Node:
    """A command line has no line numbers."""
    match node:
        case Scalar():
            return Scalar(node.value, node.text, mark)
        case Items():
            return Items(tuple(_unmarked(item, mark) for item in node.items), mark)
        case Table():
            entries = {key: _unmarked(child, mark) for key, child in node.entries.items()}
            return Table(entries, dict.fromkeys(node.keys, mark), mark)


def _apply_one(
    desk: Desk, trees: Trees, key: str, nodes: tuple[Node, ...], mark: Mark
) -> tuple[Trees, Change] | None:
    named_axis = key.startswith("axes.")
    bare = key.removeprefix("axes.")
    path: Path = tuple(bare.split("."))
    owner = keys.owner(bare)
    if owner is not None:
        try:
            keys.type_at(keys.model_of(owner), path)
        except keys.NoSuchKey:
            owner = None
    is_range = any(
        isinstance(n, Scalar) and isinstance(n.value, str) and units.looks_like_range(n.value)
        for n in nodes
    )
    axes = trees.matrix.entries.get("axes")
    swept = axis_keys(axes)
    if owner is not None and (named_axis or len(nodes) > 1 or is_range or bare in swept):
        return _set_axis(trees, bare, nodes, mark)
    if owner is not None:
        return _set(desk, trees, owner, bare, path, nodes[0], mark)
    if not named_axis and (path[0] not in {"axes", "experiment", "extends"}):
        try:
            keys.type_at(Matrix, path)
        except keys.NoSuchKey:
            pass
        else:
            if len(nodes) > 1:
                desk.complain(
                    mark,
                    f"{len(nodes)} values",
                    "this key has one value and can not be an axis",
                    "one value" if path[0] not in LISTS_IN_MATRIX else "[{…}, {…}]",
                )
                return None
            return _set(desk, trees, "matrix", bare, path, nodes[0], mark)
    desk.complain(
        mark,
        "no such key",
        "it matches nothing in the matrix or the experiment",
        keys.meant(bare, keys.settable()),
    )
    return None


def axis_keys(axes: Node | None) -> set[str]:
    """Every key that the node under `axes` names, good or bad."""
    found: set[str] = set()
    stack: list[tuple[str, Node | None]] = [("", axes)]
    while stack:
        name, node = stack.pop()
        if isinstance(node, Table):
            stack += [(f"{name}.{key}".lstrip("."), child) for key, child in node.entries.items()]
        elif node is not None and name:
            found.add(name)
    return found


def _set_axis(trees: Trees, key: str, nodes: tuple[Node, ...], mark: Mark) -> tuple[Trees, Change]:
    axes = trees.matrix.entries.get("axes")
    table = axes if isinstance(axes, Table) else Table({}, {}, mark)
    value = Items(nodes, mark)
    old = "no axis"
    nested = tuple(key.split("."))
    node, _, depth = nearest(table, nested)
    if key in table.entries:
        old = seen(table.entries[key])
    elif depth == len(nested) and depth > 1:
        old = seen(node)
        changed = put(table, nested, value, mark)
        assert isinstance(changed, Table)
        return _with_axes(trees, changed, mark), Change(f"axes.{key}", old, seen(value))
    entries = {**table.entries, key: value}
    table = Table(entries, {**table.keys, key: mark}, table.mark)
    return _with_axes(trees, table, mark), Change(f"axes.{key}", old, seen(value))


def _with_axes(trees: Trees, axes: Table, mark: Mark) -> Trees:
    matrix = trees.matrix
    keys_ = {**matrix.keys, "axes": matrix.keys.get("axes", mark)}
    return Trees(Table({**matrix.entries, "axes": axes}, keys_, matrix.mark), trees.experiment)


def _set(
    desk: Desk, trees: Trees, where: str, key: str, path: Path, node: Node, mark: Mark
) -> tuple[Trees, Change] | None:
    tree = trees.matrix if where == "matrix" else trees.experiment
    old, _, depth = nearest(tree, path)
    before = seen(old) if depth == len(path) else "not set"
    try:
        changed = set_at(tree, keys.model_of(where), path, node)
    except NoSuchItem as error:
        desk.complain(mark, "no such item", str(error), "a number that is there")
        return None
    change = Change(key, before, seen(node))
    if where == "matrix":
        return Trees(changed, trees.experiment), change
    return Trees(trees.matrix, changed), change
