"""The types of single values in experiments and matrices, each with its why and its fix.

Rule: one value, one verdict. A field looks at nothing but its own value; what two
values must agree on stands in the nouns. Every refusal carries `why` and `fix`, which
`spec` prints with file and line. Files are read with the context `{"text": True}`:
then a size must be spelled out. Code of ours may give the plain number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable  # noqa: TC003 - read at run time
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue  # noqa: TC002 - read at run time
from pydantic_core import CoreSchema, PydanticCustomError

from harness import units

SMALLEST_MEMORY = 6 << 20
LONGEST_TEXT = 64 * 1024
YAML_11_BOOLEANS = frozenset({"yes", "no", "on", "off", "y", "n"})


def refuse(why: str, fix: str, key: str = "") -> PydanticCustomError:
    """The one shape of refusal: a reason and a remedy.

    Args:
        key: The key below the noun that refuses ("memory_swap", "mounts.0.target"): its
            line is the one to show. Empty: the noun's own.
    """
    return PydanticCustomError("unfit", "{why}; {fix}", {"why": why, "fix": fix, "key": key})


class Noun(BaseModel):
    """Frozen, knows all its keys. `sugar` names the key that a bare value stands for."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True
    )
    sugar: ClassVar[str | None] = None

    @model_validator(mode="before")
    @classmethod
    def _sweeten(cls, value: Any) -> Any:
        if cls.sugar is None or isinstance(value, (dict, cls, list, tuple)):
            return value
        return {cls.sugar: value}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        shape = handler(schema)
        if cls.sugar is None:
            return shape
        inner = handler.resolve_ref_schema(shape)
        bare = dict(inner["properties"][cls.sugar])
        bare.pop("default", None)
        whole = dict(inner)
        inner.clear()
        inner.update({"title": whole.pop("title", cls.__name__), "anyOf": [bare, whole]})
        return shape


@dataclass(frozen=True, slots=True)
class Relative:
    """Marks a path that is relative to the file it stands in; `spec` makes it absolute.

    Attributes:
        bare: A word without a slash is a name, not a path.
        must_exist: None, or the kind that must be there ("file", "directory", "any").
    """

    bare: bool = False
    must_exist: str | None = None


def _quantity(
    parse: Callable[[str], Any], kinds: tuple[type, ...], words: str
) -> Callable[[Any, ValidationInfo], Any]:
    def check(value: Any, info: ValidationInfo) -> Any:
        from_text = bool(info.context and info.context.get("text"))
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and not from_text:
            if not math.isfinite(value):
                raise refuse("not a finite number", words)
            return kinds[0](value)
        if number:
            value = repr(value)
        if not isinstance(value, str):
            raise refuse(f"this is {kind_of(value)}", words)
        try:
            return parse(value)
        except units.Unfit as unfit:
            raise refuse(unfit.why, unfit.fix) from None

    return check


def kind_of(value: Any) -> str:
    """What a person calls a value of this type."""
    match value:
        case None:
            return "empty"
        case bool():
            return "a truth value"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case _:
            return "a mapping"


def between(low: float | None, high: float | None, why: str, fix: str) -> Callable[[Any], Any]:
    """A further condition on a number that already has its unit taken off."""

    def check(value: Any) -> Any:
        if isinstance(value, (int, float)) and (
            (low is not None and value < low) or (high is not None and value > high)
        ):
            raise refuse(why, fix)
        return value

    return check


def _whole(low: int, high: int, why: str) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            if isinstance(value, float) and value.is_integer():
                return check(int(value))
            raise refuse(f"a whole number is needed, this is {kind_of(value)}", f"{low} or more")
        if value < low:
            raise refuse(why, f"{low} or more")
        if value > high:
            raise refuse("more than makes sense here", f"at most {high}")
        return value

    return check


def _real(low: float, high: float, why: str) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise refuse(f"a number is needed, this is {kind_of(value)}", "such as 0.5 or 2")
        if not math.isfinite(value) or value < low or value > high:
            raise refuse(why, f"a number from {low:g} to {high:g}")
        return float(value)

    return check


def _text(value: Any) -> str:
    if not isinstance(value, str):
        hint = "put it in quotes" if isinstance(value, (int, float, bool)) else "write text"
        raise refuse(f"text is needed, this is {kind_of(value)}", hint)
    if not value.strip():
        raise refuse("it is empty", "write something, or leave the key out")
    if len(value) > LONGEST_TEXT:
        raise refuse(f"longer than {LONGEST_TEXT} characters", "put it into a script file")
    if "\0" in value:
        raise refuse("a NUL ends the text for the kernel", "leave it out")
    return value


def _loose_text(value: Any) -> str:
    """Arguments and environment: whole numbers are taken as they are written."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and not value.strip():
        return value
    return _text(value)


def _matching(pattern: str, why: str, fix: str) -> Callable[[Any], str]:
    compiled = re.compile(pattern)

    def check(value: Any) -> str:
        text = _text(value)
        if compiled.fullmatch(text) is None:
            raise refuse(why, fix)
        return text

    return check


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in YAML_11_BOOLEANS:
        good = "true" if value.lower() in {"yes", "on", "y"} else "false"
        raise refuse(f'YAML 1.1 reads "{value}" as {good}, YAML 1.2 as text', f"write {good}")
    raise refuse(f"true or false is needed, this is {kind_of(value)}", "write true or false")


def _none_word(value: Any) -> Any:
    return None if isinstance(value, str) and value == "none" else value


def _rate(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not 0 <= value <= 1:
            raise refuse("a rate is 0 to 1, or a percentage", "a percentage such as 5%")
        return float(value)
    if not isinstance(value, str):
        raise refuse(f"this is {kind_of(value)}", "a percentage such as 5%")
    try:
        return units.parse_rate(value)
    except units.Unfit as unfit:
        raise refuse(unfit.why, unfit.fix) from None


class Nullable:
    """`none` (or YAML's null) is a value of its own: no limit, not set."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(_none_word, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        inner = handler(schema)
        return {"anyOf": [inner, {"const": "none"}]}


NONE = Nullable()

_SIZE_SCHEMA = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?(B|KiB|MiB|GiB|TiB)$"}
_TIME_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": r"^-?([0-9]+(\.[0-9]+)? ?(us|ms|s|min|m|h|d))+$"},
        {"const": 0},
    ]
}
_RATE_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?%$"},
        {"type": "number", "minimum": 0, "maximum": 1},
    ]
}

_parse_size = _quantity(units.parse_size, (int,), "a size such as 256MiB")
_size = BeforeValidator(_parse_size)
_time = BeforeValidator(_quantity(units.parse_seconds, (float,), "a time such as 250ms or 2s"))


_memory_floor = between(
    SMALLEST_MEMORY, None, "docker refuses a memory limit below 6MiB", "6MiB or more"
)

# Validators that stand further right run first.
Size = Annotated[
    int,
    BeforeValidator(between(1, None, "nothing would fit into it", "1MiB or more")),
    _size,
    WithJsonSchema(_SIZE_SCHEMA),
]
Memory = Annotated[
    int,
    BeforeValidator(_memory_floor),
    _size,
    WithJsonSchema(_SIZE_SCHEMA),
]
UNLIMITED = -1
"""How docker writes "as much swap as there is"."""


def _swap(value: Any) -> Any:
    return UNLIMITED if isinstance(value, str) and value == "unlimited" else value


def _swap_size(value: Any, info: ValidationInfo) -> Any:
    return value if value == UNLIMITED else _parse_size(value, info)


def _swap_floor(value: Any) -> Any:
    return value if value == UNLIMITED else _memory_floor(value)


Swap = Annotated[
    int,
    BeforeValidator(_swap_floor),
    BeforeValidator(_swap_size),
    BeforeValidator(_swap),
    WithJsonSchema({"anyOf": [_SIZE_SCHEMA, {"const": "unlimited"}]}),
]
Seconds = Annotated[
    float,
    BeforeValidator(between(0, None, "a time can not be negative here", "0s or more")),
    _time,
    WithJsonSchema(_TIME_SCHEMA),
]
Timeout = Annotated[
    float,
    BeforeValidator(
        between(0.001, None, "with no time at all every trial would time out", "1s or more")
    ),
    _time,
    WithJsonSchema(_TIME_SCHEMA),
]
Offset = Annotated[float, _time, WithJsonSchema(_TIME_SCHEMA)]
Lag = Annotated[
    float,
    BeforeValidator(between(-60, 3600, "outside what a trial can hold", "from -60s to 1h")),
    _time,
    WithJsonSchema(_TIME_SCHEMA),
]
_percent = BeforeValidator(_rate)
UNITS = {_size: "bytes", _time: "seconds", _percent: "rate"}
"""Which validator stands for which unit, so that a plain number can be printed again."""
Rate = Annotated[float, _percent, WithJsonSchema(_RATE_SCHEMA)]
Truth = Annotated[bool, BeforeValidator(_truth)]
Text = Annotated[str, BeforeValidator(_text)]
LooseText = Annotated[
    str, BeforeValidator(_loose_text), WithJsonSchema({"type": ["string", "integer"]})
]
Natural = Annotated[int, BeforeValidator(_whole(0, 1_000_000, "there is nothing below 0"))]
Limit = Annotated[int, BeforeValidator(_whole(0, (1 << 63) - 1, "there is nothing below 0"))]
Crowd = Annotated[int, BeforeValidator(_whole(0, 1000, "there is nothing below 0"))]
Positive = Annotated[
    int, BeforeValidator(_whole(1, 1_000_000_000, "nothing would be left to run or to use"))
]
SignedWhole = Annotated[int, BeforeValidator(_whole(-1000, 1000, "below -1000"))]
Cpus = Annotated[
    float, BeforeValidator(_real(0.01, 1024, "docker takes 0.01 CPUs or more, no machine has 1024"))
]
Probability = Annotated[float, BeforeValidator(_real(0.000001, 0.5, "an error rate, as alpha is"))]

NAME = r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"
Name = Annotated[
    str,
    BeforeValidator(
        _matching(
            NAME,
            "names become directories and labels: small letters, digits, - _ . inside, at most 63",
            "such as remount-race",
        )
    ),
    WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"}),
]
InContainer = Annotated[
    str,
    BeforeValidator(
        _matching(r"/[^\x00]*", "paths in the container are absolute", "start it with /")
    ),
    WithJsonSchema({"type": "string", "pattern": "^/"}),
]
CpuSet = Annotated[
    str,
    BeforeValidator(
        _matching(
            r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", "not a list of CPUs", 'such as "0-1,3"'
        )
    ),
]
Restart = Annotated[
    str,
    BeforeValidator(
        _matching(
            r"no|always|unless-stopped|on-failure(:\d{1,6})?",
            "docker knows no such restart policy",
            "no, always, unless-stopped, on-failure or on-failure:3",
        )
    ),
    WithJsonSchema(
        {"type": "string", "pattern": r"^(no|always|unless-stopped|on-failure(:[0-9]+)?)$"}
    ),
]
VariableName = Annotated[
    str,
    BeforeValidator(
        _matching(r"[^=\x00]+", "a variable's name has no = in it", "such as LOG_LEVEL")
    ),
]
