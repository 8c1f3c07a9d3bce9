"""Dotted keys ↔ the nouns: which keys there are, what stands at one, what was meant.

Rule: knows the models, no file and no value. `container.mounts.0.mode`,
`container.env.LOG` and `delay.for` are keys; the spelling is always the user's.
"""

from __future__ import annotations

import difflib
import types
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter

from harness.model.experiment import Experiment, Matrix
from harness.model.fields import UNITS, Noun, Relative

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

FIXED = {
    "matrix": ("name", "about", "experiment", "axes", "exclude", "include", "control"),
    "experiment": ("name", "about", "expect"),
}
"""Keys that no axis can change: they say what the thing is."""

SWEPT_IN_MATRIX = ("machine", "neighbours")
"""The keys of a matrix that may be axes; every key of an experiment but its name may be."""


class NoSuchKey(LookupError):
    """A key that is none.

    Attributes:
        step: The first part that does not exist.
        options: What could stand there.
    """

    def __init__(self, step: str, options: tuple[str, ...]) -> None:
        self.step, self.options = step, options
        super().__init__(step)


def fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a noun as the user writes them."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def attribute(model: type[BaseModel], key: str) -> str:
    """The Python name behind a key."""
    for name, info in model.model_fields.items():
        if key in {info.alias, name}:
            return name
    raise NoSuchKey(key, tuple(fields(model)))


def whole_type(info: FieldInfo) -> Any:
    """The field's type with its validators."""
    if not info.metadata:
        return info.annotation
    return Annotated[(info.annotation, *info.metadata)]


def bare(kind: Any) -> Any:
    """A type without Annotated and without `| None`."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif get_origin(kind) in {Union, types.UnionType}:
            rest = [arg for arg in get_args(kind) if arg is not type(None)]
            if len(rest) != 1:
                return kind
            kind = rest[0]
        else:
            return kind


def marker(kind: Any) -> Relative | None:
    """The `Relative` mark of a type, wherever it hangs."""
    if get_origin(kind) is Annotated:
        for meta in get_args(kind)[1:]:
            if isinstance(meta, Relative):
                return meta
        return marker(get_args(kind)[0])
    if get_origin(kind) in {Union, types.UnionType}:
        for arg in get_args(kind):
            if found := marker(arg):
                return found
    return None


def is_noun(kind: Any) -> bool:
    """Whether a type is one of ours with keys of its own."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def step_into(kind: Any, step: str | int) -> Any:
    """The type of what stands at `step` inside a value of type `kind`.

    Raises:
        NoSuchKey: there is nothing of that name.
    """
    inner = bare(kind)
    if is_noun(inner):
        known = fields(inner)
        if str(step) not in known:
            raise NoSuchKey(str(step), tuple(known))
        return whole_type(known[str(step)])
    if get_origin(inner) is dict:
        return get_args(inner)[1]
    if get_origin(inner) is tuple:
        if isinstance(step, int) or (step.isascii() and step.isdigit()):
            return get_args(inner)[0]
        raise NoSuchKey(str(step), ("0", "1"))
    raise NoSuchKey(str(step), ())


def type_at(model: type[BaseModel], path: tuple[str | int, ...]) -> Any:
    """The type at a path below a noun.

    Raises:
        NoSuchKey: at the first part that leads nowhere.
    """
    kind: Any = model
    for step in path:
        kind = step_into(kind, step)
    return kind


@cache
def unit_at(model: type[BaseModel], path: tuple[str | int, ...]) -> str | None:
    """ "bytes", "seconds" or "rate" when the plain value at a key is one; else None."""
    kind = type_at(model, path)
    inner = bare(kind)
    if is_noun(inner) and getattr(inner, "sugar", None):
        return unit_at(inner, (inner.sugar,))
    return _unit(kind)


def _unit(kind: Any) -> str | None:
    if get_origin(kind) is Annotated:
        for meta in get_args(kind)[1:]:
            if meta in UNITS:
                return UNITS[meta]
        return _unit(get_args(kind)[0])
    if get_origin(kind) in {Union, types.UnionType}:
        return next((unit for arg in get_args(kind) if (unit := _unit(arg))), None)
    return None


@cache
def adapter(model: type[BaseModel], path: tuple[str | int, ...]) -> TypeAdapter[Any]:
    """A validator for the value at one key alone."""
    return TypeAdapter(type_at(model, path))


def owner(key: str) -> str | None:
    """Which file a swept key belongs to: "matrix", "experiment", or None."""
    first = key.split(".", 1)[0]
    if first in SWEPT_IN_MATRIX:
        return "matrix"
    if first in fields(Experiment) and first not in FIXED["experiment"]:
        return "experiment"
    return None


def model_of(where: str) -> type[Noun]:
    """The noun of a file."""
    return Matrix if where == "matrix" else Experiment


def dotted(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key below a noun that does not go through a list or free names."""
    for key, info in fields(model).items():
        yield prefix + key
        inner = bare(info.annotation)
        if is_noun(inner):
            yield from dotted(inner, f"{prefix}{key}.")


@cache
def swept() -> tuple[str, ...]:
    """Every key that may be an axis."""
    keys = [key for key in dotted(Experiment) if owner(key) == "experiment"]
    keys += [key for key in dotted(Matrix) if key.split(".")[0] in SWEPT_IN_MATRIX]
    return tuple(keys)


@cache
def settable() -> tuple[str, ...]:
    """Every key that `-o` may set."""
    own = [
        key
        for key in dotted(Matrix)
        if key.split(".")[0] not in (*SWEPT_IN_MATRIX, "experiment", "axes")
    ]
    return (*swept(), *own)


def meant(key: str, options: tuple[str, ...]) -> str:
    """What to write in place of an unknown key: the nearest ones, or all when few."""
    last = key.rsplit(".", 1)[-1]
    same = [option for option in options if option.rsplit(".", 1)[-1] == last and option != key]
    close = difflib.get_close_matches(key, options, n=3, cutoff=0.6)
    flat = key.replace("-", "_").lower()
    exact = [option for option in options if option.replace("-", "_").lower() == flat]
    best = list(dict.fromkeys([*exact, *same, *close]))[:3]
    if best:
        return "did you mean " + " or ".join(best) + "?"
    if 0 < len(options) <= 12:
        return "one of " + ", ".join(options)
    return "remove it; `schema` prints every key there is"
