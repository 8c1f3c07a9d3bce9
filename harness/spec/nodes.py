"""YAML text → a tree that still knows its lines, under limits on size, depth and aliases.

Rule: nothing here knows what an experiment is. The safe subset of YAML that everybody
reads alike is taken; what YAML 1.1 and 1.2 read differently (010, 1:30, 1_000) is
reported, never chosen. The tree is built from parser events in a loop, so neither deep
nesting nor an alias bomb costs more than its limit.

Why not yaml.safe_load: it loses the lines, takes the last of two equal keys, reads `on:`
as True and expands "billion laughs" without end.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import yaml

from harness.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_CHARACTERS = 64 * 1024
MOST_NODES = 20_000
DEEPEST = 32
LONGEST_NUMBER = 18


@dataclass(frozen=True, slots=True)
class Mark:
    """Where something stands. line counts from 1; 0: not in a file (the command line)."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value; `text` is how it was written."""

    value: Any
    text: str
    mark: Mark


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping; `keys` says where each key stands."""

    entries: dict[str, Node]
    keys: dict[str, Mark]
    mark: Mark


Node = Scalar | Items | Table
Path = tuple[str | int, ...]


class Unreadable(Exception):
    """The text is no YAML of ours. Carries every problem found before it ended."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet."""

    table: bool
    mark: Mark
    anchor: str | None
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, Mark] = field(default_factory=dict)
    merged: list[Table] = field(default_factory=list)
    key: str | None = None
    key_mark: Mark | None = None
    size: int = 1
    height: int = 1


def parse(text: str, file: str, show: Callable[[str], str] = str) -> Node:
    """The tree of one document.

    Args:
        file: Put into every mark, as it is.
        show: How `file` is printed in problems.

    Raises:
        Unreadable: not YAML, over a limit, or ambiguous; with all that was found.
    """
    if len(text) > MOST_CHARACTERS:
        raise Unreadable(
            [
                Problem(
                    show(file),
                    f"{len(text)} characters",
                    f"an experiment or a matrix has at most {MOST_CHARACTERS}",
                    "put long scripts into files of their own",
                )
            ]
        )
    builder = _Builder(file, show)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        what = " ".join(str(error.problem or error.context or "not YAML").split())
        fix = "check indentation, quotes and brackets just above this line"
        if "cannot start any token" in what and "\\t" in what:
            fix = "indent with spaces; YAML does not take tabs"
        builder.complain(Mark(file, line), "not YAML", what, fix)
    except yaml.reader.ReaderError as error:
        # Its position counts characters; what is not text at all has no line worth showing.
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        shown = f"character {error.character!r}"[:60]
        builder.complain(Mark(file, line), shown, "not allowed in YAML", "remove it")
    except (ValueError, OverflowError) as error:
        # PyYAML lets int() and chr() fail on absurd %YAML versions and \U escapes.
        why = " ".join(str(error).split())[:120]
        builder.complain(Mark(file, 1), "not YAML", why, "remove the odd escape or directive")
    except _Over:
        pass
    if builder.problems:
        raise Unreadable(builder.problems)
    if builder.root is None:
        builder.complain(
            Mark(file, 1), "an empty file", "there is nothing in it", "start with name:"
        )
        raise Unreadable(builder.problems)
    return builder.root


class _Over(Exception):
    """A limit was reached: what follows is not read."""


class _Builder:
    def __init__(self, file: str, show: Callable[[str], str]) -> None:
        self.file, self.show = file, show
        self.problems: list[Problem] = []
        self.root: Node | None = None
        self.stack: list[_Open] = []
        self.anchors: dict[str, tuple[Node, int, int]] = {}
        self.nodes = 0
        self.documents = 0

    def complain(self, mark: Mark, what: str, why: str, fix: str) -> None:
        where = str(replace(mark, file=self.show(mark.file)))
        words = (ascii(text)[1:-1] if not text.isprintable() else text for text in (what, why, fix))
        self.problems.append(Problem(where, *words))

    def take(self, event: yaml.Event) -> None:
        mark = Mark(self.file, event.start_mark.line + 1 if event.start_mark else 1)
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents > 1:
                    self.complain(
                        mark, "---", "one file holds one document", "put it into another file"
                    )
                    raise _Over
            case yaml.AliasEvent():
                self._alias(event, mark)
            case yaml.ScalarEvent():
                self._count(mark, 1)
                self._tag(event, mark)
                self._scalar(event, mark)
            case yaml.CollectionStartEvent():
                self._count(mark, 1)
                self._tag(event, mark)
                self._depth(mark, 1)
                table = isinstance(event, yaml.MappingStartEvent)
                self.stack.append(_Open(table, mark, event.anchor))
            case yaml.CollectionEndEvent():
                self._close()

    def _count(self, mark: Mark, more: int) -> None:
        self.nodes += more
        if self.nodes > MOST_NODES:
            self.complain(
                mark,
                "too many values",
                f"more than {MOST_NODES}, aliases (*name) counted each time",
                "write fewer; sweep with axes and ranges",
            )
            raise _Over

    def _depth(self, mark: Mark, height: int) -> None:
        if len(self.stack) + height > DEEPEST:
            self.complain(
                mark, "nesting", f"deeper than {DEEPEST} levels", "nothing here needs that"
            )
            raise _Over

    def _tag(self, event: yaml.NodeEvent, mark: Mark) -> None:
        tag = getattr(event, "tag", None)
        if tag not in {None, "!"}:
            self.complain(
                mark, f"tag {tag}"[:80], "tags are not taken: they run code elsewhere", "remove it"
            )

    def _alias(self, event: yaml.AliasEvent, mark: Mark) -> None:
        if any(frame.anchor == event.anchor for frame in self.stack):
            self.complain(mark, f"*{event.anchor}", "it contains itself", "remove the alias")
            self._add(Scalar(None, "", mark), mark, 1, 0)
            return
        found = self.anchors.get(event.anchor or "")
        if found is None:
            self.complain(
                mark, f"*{event.anchor}", "no anchor of that name above", f"add &{event.anchor}"
            )
            self._add(Scalar(None, "", mark), mark, 1, 0)
            return
        node, size, height = found
        self._count(mark, size)
        self._depth(mark, height)
        self._add(node, mark, size, height)

    def _scalar(self, event: yaml.ScalarEvent, mark: Mark) -> None:
        text = event.value
        if any("\ud800" <= c <= "\udfff" for c in text) or "\0" in text:
            self.complain(mark, "an odd escape", "half a character or a NUL", "remove it")
            text = ""
        node = Scalar(text, text, mark)
        is_key = bool(self.stack) and self.stack[-1].table and self.stack[-1].key is None
        if event.implicit[0] and not is_key:
            try:
                node = Scalar(resolve(text), text, mark)
            except ValueError as error:
                why, _, fix = str(error).partition("|")
                self.complain(mark, text[:60], why, fix)
        if event.anchor:
            self.anchors[event.anchor] = (node, 1, 0)
        self._add(node, mark, 1, 0)

    def _close(self) -> None:
        frame = self.stack.pop()
        node: Node
        if frame.table:
            for other in frame.merged:
                for key, value in other.entries.items():
                    frame.entries.setdefault(key, value)
                    frame.keys.setdefault(key, other.keys[key])
            node = Table(frame.entries, frame.keys, frame.mark)
        else:
            node = Items(tuple(frame.items), frame.mark)
        if frame.anchor:
            self.anchors[frame.anchor] = (node, frame.size, frame.height)
        self._add(node, frame.mark, frame.size, frame.height)

    def _add(self, node: Node, mark: Mark, size: int, height: int) -> None:
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        frame.size += size
        frame.height = max(frame.height, height + 1)
        if not frame.table:
            frame.items.append(node)
        elif frame.key is None:
            frame.key = self._key(node, mark)
            frame.key_mark = mark
        else:
            self._entry(frame, frame.key, frame.key_mark or mark, node)
            frame.key = frame.key_mark = None

    def _key(self, node: Node, mark: Mark) -> str:
        if isinstance(node, Scalar):
            return node.text
        self.complain(mark, "a key", "a list or a mapping can not be a key", "use a word")
        return "?"

    def _entry(self, frame: _Open, key: str, mark: Mark, node: Node) -> None:
        if key == "<<":
            parts = node.items if isinstance(node, Items) else (node,)
            for part in parts:
                if isinstance(part, Table):
                    frame.merged.append(part)
                else:
                    self.complain(mark, "<<", "only a mapping can be merged", "<<: *anchor")
        elif key in frame.entries:
            first = frame.keys[key].line
            self.complain(
                mark,
                f"{key}: twice",
                f"line {first} has it too, and readers differ in which one counts",
                "remove one of them",
            )
        else:
            frame.entries[key] = node
            frame.keys[key] = mark


_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?")
_ODD = (
    (re.compile(r"[-+]?0[0-9]+"), "YAML 1.1 reads it in base 8, YAML 1.2 in base 10"),
    (re.compile(r"[-+]?0[xXoObB][0-9a-fA-F_]+"), "a number in another base is easily misread"),
    (re.compile(r"[-+]?[0-9][0-9_]*_[0-9_]*"), "YAML 1.1 reads a number, YAML 1.2 text"),
    (
        re.compile(r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9_]*)?"),
        "YAML 1.1 reads it in base 60 (1:30 is 90), YAML 1.2 as text",
    ),
)
_NOT_FINITE = re.compile(r"[-+]?\.?(inf|nan|infinity)", re.IGNORECASE)


def resolve(text: str) -> Any:
    """The value of an unquoted scalar: None, bool, int, float or the text itself.

    >>> resolve("true"), resolve("no"), resolve("12"), resolve("256MiB"), resolve("~")
    (True, 'no', 12, '256MiB', None)

    Raises:
        ValueError: "why|fix", where readers differ or the number is out of bounds.
    """
    if text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text in {"true", "True", "TRUE"}:
        return True
    if text in {"false", "False", "FALSE"}:
        return False
    for odd, why in _ODD:
        if odd.fullmatch(text):
            raise ValueError(f'{why}|put it in quotes ("{text[:40]}"), or write it in decimal')
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("not a finite number|a number that can be reached")
    digits = sum(c.isdigit() for c in text)
    if _INT.fullmatch(text):
        if digits > LONGEST_NUMBER:
            raise ValueError(f"more than {LONGEST_NUMBER} digits|a number somebody could mean")
        return int(text)
    if _FLOAT.fullmatch(text):
        value = float(text) if digits <= 40 else math.inf
        if not math.isfinite(value) or abs(value) >= 1e18:
            raise ValueError("not a number that anything here could have|a smaller one")
        return value
    return text


def plain(node: Node) -> Any:
    """The tree without its lines: dict, tuple, scalars."""
    match node:
        case Scalar():
            return node.value
        case Items():
            return tuple(plain(item) for item in node.items)
        case Table():
            return {key: plain(value) for key, value in node.entries.items()}


def nearest(node: Node, path: Path) -> tuple[Node, Mark, int]:
    """The deepest node on the way down `path`, the best line for it, and how far it went."""
    mark = node.mark
    for depth, step in enumerate(path):
        if isinstance(node, Table) and str(step) in node.entries:
            mark = node.keys[str(step)]
            node = node.entries[str(step)]
        elif isinstance(node, Items) and _index(step, len(node.items)) is not None:
            node = node.items[int(step)]
            mark = node.mark
        else:
            return node, mark, depth
        if isinstance(node, Scalar):
            mark = node.mark
    return node, mark, len(path)


def _index(step: str | int, length: int) -> int | None:
    if isinstance(step, str) and not (step.isascii() and step.isdigit() and len(step) < 6):
        return None
    number = int(step)
    return number if 0 <= number < length else None


def put(node: Node | None, path: Path, value: Node, mark: Mark) -> Node:
    """A tree in which `path` holds `value`; tables on the way are made where missing."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(node, Items):
        number = _index(step, len(node.items))
        if number is not None:
            items = list(node.items)
            items[number] = put(items[number], rest, value, mark)
            return Items(tuple(items), node.mark)
    table = node if isinstance(node, Table) else Table({}, {}, mark)
    key = str(step)
    child = put(table.entries.get(key), rest, value, mark)
    at = table.keys.get(key, mark) if rest else value.mark
    return Table({**table.entries, key: child}, {**table.keys, key: at}, table.mark)


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it."""
    stack = [node]
    while stack:
        top = stack.pop()
        yield top
        if isinstance(top, Items):
            stack.extend(top.items)
        elif isinstance(top, Table):
            stack.extend(top.entries.values())
