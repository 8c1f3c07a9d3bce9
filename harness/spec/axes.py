"""Axes, exclude and include: names checked, ranges written out, each value taken alone.

Rule: a value that its key would refuse is reported at the value's own line, once,
before anything is multiplied.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from harness import units
from harness.errors import Problem
from harness.model.container import ImageSpec
from harness.model.experiment import Delay, Neighbours, Remount, Script
from harness.spec import keys
from harness.spec.complaints import explain, seen
from harness.spec.nodes import Items, Mark, Node, Path, Scalar, Table, nearest, plain, put
from harness.spec.tree import Desk, complete

MOST_VALUES = 1000
MOST_PATTERNS = 100


@dataclass(frozen=True, slots=True)
class Value:
    """One value of an axis: as it stands in the file, and as a plain value."""

    node: Node
    plain: Any


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis.

    Attributes:
        key: Dotted, e.g. "container.memory".
        owner: "matrix" or "experiment": whose key it is.
        values: In the order of the file.
        unit: "bytes", "seconds", "rate" or None: what the plain numbers are.
    """

    key: str
    owner: str
    values: tuple[Value, ...]
    mark: Mark
    unit: str | None = None

    @property
    def path(self) -> Path:
        return tuple(self.key.split("."))


@dataclass(frozen=True, slots=True)
class Pattern:
    """An exclude or include: axis key → the values it names."""

    wants: dict[str, tuple[Value, ...]]
    mark: Mark
    text: str


def read_axes(desk: Desk, node: Node | None) -> tuple[Axis, ...]:
    """The axes of a matrix, as far as they can be taken."""
    if node is None:
        return ()
    if not isinstance(node, Table):
        desk.complain(
            node.mark,
            f"axes: {seen(node)}",
            "axes are a mapping from keys to lists of values",
            "axes: {container.memory: [64MiB, none]}",
        )
        return ()
    flat = list(_flatten(desk, node))
    found = [axis for key, child, mark in flat if (axis := read_axis(desk, key, child, mark))]
    names = [axis.key for axis in found]
    for axis in found:
        for other in names:
            if axis.key.startswith(other + "."):
                desk.complain(
                    axis.mark,
                    f"axes.{axis.key}",
                    f"it is a part of {other}, which is an axis too: one would undo the other",
                    "keep one of them",
                )
    return tuple(found)


def _flatten(desk: Desk, node: Table) -> list[tuple[str, Node, Mark]]:
    """Both `container.memory: […]` and `container: {memory: […]}` name an axis."""
    found: list[tuple[str, Node, Mark]] = []
    stack = [(key, child, node.keys[key]) for key, child in reversed(node.entries.items())]
    while stack:
        key, child, mark = stack.pop()
        if isinstance(child, Table):
            if not child.entries:
                found.append((key, Items((), child.mark), mark))
            stack += [
                (f"{key}.{name}", grandchild, child.keys[name])
                for name, grandchild in reversed(child.entries.items())
            ]
        else:
            if any(key == other for other, _, _ in found):
                desk.complain(mark, f"axes.{key}: twice", "it is an axis already", "remove one")
                continue
            found.append((key, child, mark))
    return found


def read_axis(desk: Desk, key: str, node: Node, mark: Mark) -> Axis | None:
    """One axis, or None when nothing of it can be taken."""
    owner = keys.owner(key)
    try:
        if owner is None:
            raise keys.NoSuchKey(key, keys.swept())
        keys.type_at(keys.model_of(owner), tuple(key.split(".")))
    except keys.NoSuchKey:
        desk.complain(
            mark,
            f"axes.{key}: no such key",
            "an axis changes a key of the experiment, of machine, or neighbours",
            keys.meant(key, keys.swept()),
        )
        return None
    nodes = node.items if isinstance(node, Items) else (node,)
    if not nodes:
        desk.complain(
            mark, f"axes.{key}: []", "an axis without values leaves no cell", "add a value"
        )
    values: dict[Any, Value] = {}
    for one in _written_out(desk, f"axes.{key}", nodes, mark):
        value = read_value(desk, owner, key, one)
        if value is None:
            continue
        if identity(value.plain) in values:
            desk.complain(
                one.mark,
                f"axes.{key}: {seen(one)}",
                "the same value is there already",
                "remove it; more trials come from trials.max",
            )
            continue
        values[identity(value.plain)] = value
    if not values:
        return None
    unit = keys.unit_at(keys.model_of(owner), tuple(key.split(".")))
    return Axis(key, owner, tuple(values.values()), mark, unit)


def _written_out(desk: Desk, name: str, nodes: tuple[Node, ...], mark: Mark) -> list[Node]:
    """Every value, ranges expanded, up to the most there may be."""
    found: list[Node] = []
    for item in nodes:
        found += expand(desk, name, item)
        if len(found) > MOST_VALUES:
            desk.complain(mark, name, f"more than {MOST_VALUES} values", "fewer values")
            return []
    return found


def show_value(value: Any, unit: str | None) -> str:
    """A plain value as a person writes it: 134217728 bytes are 128MiB."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int() if unit == "bytes":
            return units.show_size(value)
        case int() | float() if unit == "seconds":
            return units.show_seconds(value)
        case float() if unit == "rate":
            return units.show_rate(value)
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def identity(value: Any) -> tuple[bool, Any]:
    """What two spellings of one plain value share; 1 is not true."""
    return isinstance(value, bool), value


def expand(desk: Desk, name: str, node: Node) -> tuple[Node, ...]:
    """A range written out; anything else as it is."""
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        return (node,)
    if not units.looks_like_range(node.value):
        return (node,)
    try:
        texts = units.expand_range(node.value)
    except units.Unfit as unfit:
        desk.complain(node.mark, f"{name}: {seen(node)}", unfit.why, unfit.fix)
        return ()
    return tuple(Scalar(_number(text), text, node.mark) for text in texts)


def _number(text: str) -> Any:
    try:
        value = units.parse_number(text)
    except units.Unfit:
        return text
    return int(value) if value == value.to_integral_value() else float(value)


def read_value(desk: Desk, owner: str, key: str, node: Node) -> Value | None:
    """One value taken alone, by the rules of its key; None when they refuse it."""
    model = keys.model_of(owner)
    path: Path = tuple(key.split("."))
    # An empty tree has no list to step into, so nothing is looked up on the way.
    tree: Node = put(None, path, node, node.mark)
    before = desk.count
    tree = complete(desk, tree, model)
    node, _, _ = nearest(tree, path)
    try:
        value = keys.adapter(model, path).validate_python(plain(node), context={"text": True})
    except ValidationError as error:
        problems = explain(error, tree, model, below=path, show=desk.show)
        desk.add(_as_axis(problems))
        return None
    if desk.count > before:
        return None
    return Value(node, config_value(value))


def _as_axis(problems: list[Problem]) -> list[Problem]:
    return [Problem(p.where, f"axes.{p.what}", p.why, p.fix) for p in problems]


def config_value(value: Any) -> Any:
    """The plain value a cell's config shows: bytes, seconds, numbers, text, None."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Delay(after="remount-end", seconds=seconds):
            return seconds
        case Delay(after=after, seconds=seconds):
            sign = "" if seconds < 0 else "+"
            return f"{after}{sign}{units.show_seconds(seconds)}"
        case Neighbours(count=count, busy=busy):
            return f"{count} busy" if busy else count
        case ImageSpec():
            return value.rootfs or value.ref or value.build
        case Remount():
            more = {k: v for k, v in _dump(value).items() if k != "how"}
            return " ".join([value.how, *(f"{k}={v}" for k, v in more.items())])
        case Script():
            digest = hashlib.sha256(value.model_dump_json().encode()).hexdigest()[:6]
            name = value.script.rsplit("/", 1)[-1] if value.script else value.text.split("\n")[0]
            return f"{name[:40]} {digest}"
        case BaseModel():
            return json.dumps(_dump(value), sort_keys=True)
        case _:
            return json.dumps(value, sort_keys=True, default=_dump)


def _dump(value: Any) -> Any:
    return value.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def read_patterns(
    desk: Desk, node: Node | None, word: str, axes: tuple[Axis, ...], declared: set[str]
) -> tuple[Pattern, ...]:
    """The patterns under `exclude` or `include`.

    Args:
        declared: Every axis the file names, those that could not be taken too: their
            absence is told once.
    """
    if node is None:
        return ()
    listed = node.items if isinstance(node, Items) else (node,)
    found: list[Pattern] = []
    if len(listed) > MOST_PATTERNS:
        why = f"more than {MOST_PATTERNS}"
        desk.complain(node.mark, f"{word}: {len(listed)} patterns", why, "a list of values in one")
        return ()
    known = {axis.key: axis for axis in axes}
    for index, item in enumerate(listed):
        name = f"{word}.{index}"
        if not isinstance(item, Table) or not item.entries:
            desk.complain(
                item.mark,
                f"{name}: {seen(item)}",
                f"{word} is a list of mappings from axes to values",
                f"{word}: [{{container.memory: 128MiB, delay: 250ms}}]",
            )
            continue
        wants: dict[str, tuple[Value, ...]] = {}
        for key, child in item.entries.items():
            if key not in known:
                if key in declared:
                    continue
                options = tuple(known)
                desk.complain(
                    item.keys[key],
                    f"{name}.{key}: no such axis",
                    f"{word} chooses among the axes",
                    keys.meant(key, options) if options else "add it to axes",
                )
                continue
            nodes = child.items if isinstance(child, Items) else (child,)
            written = _written_out(desk, f"{name}.{key}", nodes, child.mark)
            values = [
                value
                for one in written
                if (value := read_value(desk, known[key].owner, key, one)) is not None
            ]
            wants[key] = tuple(values)
        found.append(Pattern(wants, item.mark, seen(item)))
    return tuple(found)


def read_control(
    desk: Desk, node: Node | None, axes: tuple[Axis, ...], declared: set[str]
) -> Pattern | None:
    """The one cell under `control`: a value for each axis. A list is a value, not several.

    Args:
        declared: As for `read_patterns`.
    """
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return None
    example = "control: {" + ", ".join(f"{axis.key}: …" for axis in axes) + "}"
    if not isinstance(node, Table):
        why = "the control is one cell: a mapping from each axis to one value"
        desk.complain(node.mark, f"control: {seen(node)}", why, example)
        return None
    before = desk.count
    known = {axis.key: axis for axis in axes}
    for key in node.entries.keys() - declared:
        why = "the control is a cell of this matrix: it has a value for each axis, no other key"
        desk.complain(node.keys[key], f"control.{key}: no such axis", why, example)
    wants: dict[str, tuple[Value, ...]] = {}
    for key, axis in known.items():
        if key not in node.entries:
            why = "the control is one cell: it has a value for each axis"
            desk.complain(node.mark, f"control.{key}: missing", why, example)
        elif (value := read_value(desk, axis.owner, key, node.entries[key])) is not None:
            wants[key] = (value,)
    return Pattern(wants, node.mark, seen(node)) if desk.count == before else None
