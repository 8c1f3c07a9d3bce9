"""What pydantic found → problems with file:line, what was seen, why, and the fix.

Rule: every sentence a user reads about a wrong value is made here or in `model.fields`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from harness.errors import Problem
from harness.model.fields import kind_of
from harness.spec import keys
from harness.spec.nodes import Mark, Node, Path, Scalar, nearest, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

EXAMPLES = {
    "name": "name: my-experiment",
    "container": "container: {image: {rootfs: busybox}, command: [sleep, 3600]}",
    "image": "image: {rootfs: busybox}",
    "pre_task": "pre_task: {run: echo ready}",
    "experiment": "experiment: ../experiments/my-experiment.yaml",
    "target": "target: /work",
    "axes": "axes: {container.memory: [64MiB, none]}",
    "at": "at: pre-task",
    "what": "what: signal",
    "soft": "soft: 1024",
}


def seen(node: Node | None) -> str:
    """A value as a person recognises it, at most one short line."""
    if node is None:
        return "missing"
    if isinstance(node, Scalar):
        shown = json.dumps(node.value, ensure_ascii=False)
    else:
        shown = json.dumps(plain(node), ensure_ascii=False, default=str)
    return shown if len(shown) <= 72 else shown[:69] + "…"


def legible(text: str) -> str:
    r"""Without what would move the cursor or can not be written: escaped, not dropped.

    >>> legible("a\x1b[31m"), legible("\ud800")
    ('a\\x1b[31m', '\\ud800')
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def place(mark: Mark, show: Callable[[str], str]) -> str:
    """file:line as the user knows it."""
    return legible(str(Mark(show(mark.file), mark.line)))


def explain(
    error: ValidationError,
    tree: Node,
    model: type[BaseModel],
    *,
    below: Path = (),
    show: Callable[[str], str] = str,
) -> list[Problem]:
    """One problem per finding.

    Args:
        tree: The document that was validated, or the whole one around the value.
        below: Where in `tree` the validated value stands.
        show: How file names are printed.
    """
    return [_one(details, tree, model, below, show) for details in error.errors()]


def _one(
    details: ErrorDetails,
    tree: Node,
    model: type[BaseModel],
    below: Path,
    show: Callable[[str], str],
) -> Problem:
    context: dict[str, Any] = details.get("ctx") or {}
    path: Path = (*below, *(step for step in details["loc"] if step != "[key]"))
    if context.get("key"):
        path = (*path, *str(context["key"]).split("."))
    node, mark, depth = nearest(tree, path)
    found: Node | None = node if depth == len(path) else None
    # Sugar (`delay: 5`) puts the fault one key below the value that is really there.
    if found is None and isinstance(node, Scalar):
        found, path = node, path[:depth]
    name = ".".join(map(str, path)) or "the file"
    if details["loc"][-1:] == ("[key]",):
        what = f"{name}: unknown key"
        options = tuple(part.strip("'") for part in _expected(str(context.get("expected", ""))))
        why = str(context.get("why", "there is no such key here"))
        fix = str(context.get("fix", "")) or keys.meant(str(path[-1]), options)
        return Problem(place(mark, show), legible(what), legible(why), legible(fix))
    why, fix = _sentence(details, context, path, found, model)
    if found is not None and details["type"] == "extra_forbidden":
        what = f"{name}: unknown key"
    else:
        what = f"{name}: {seen(found)}"
    return Problem(place(mark, show), legible(what), legible(why), legible(fix))


def _sentence(
    details: ErrorDetails,
    context: dict[str, Any],
    path: Path,
    found: Node | None,
    model: type[BaseModel],
) -> tuple[str, str]:
    kind = kind_of(plain(found)) if found is not None else "missing"
    match details["type"]:
        case "unfit":
            return str(context["why"]), str(context["fix"])
        case "missing":
            key = str(path[-1]) if path else ""
            return "it is needed", "add " + EXAMPLES.get(key, f"{key}: …")
        case "extra_forbidden":
            options: tuple[str, ...] = ()
            try:
                keys.type_at(model, path)
            except keys.NoSuchKey as unknown:
                options = unknown.options
            return "there is no such key here", keys.meant(str(path[-1]), options)
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"a mapping is needed, this is {kind}", "write {key: value}"
        case "tuple_type":
            return f"a list is needed, this is {kind}", "write [value, value]"
        case "string_type":
            return f"text is needed, this is {kind}", "put it in quotes"
        case "literal_error" | "enum":
            options = tuple(part.strip("'") for part in _expected(str(context["expected"])))
            value = str(found.value) if isinstance(found, Scalar) else ""
            return "not one of those there are", keys.meant(value, options)
        case "string_too_short":
            return "it is empty", "write something, or leave the key out"
        case _:
            message = details["msg"].removeprefix("Input should be ")
            return f"not taken: {message}", f"{message}"


def _expected(text: str) -> list[str]:
    return text.replace(" or ", ", ").split(", ")
