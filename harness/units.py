"""Quantities as people write them ↔ plain numbers: sizes, durations, rates, ranges.

Rule: the only place that parses or prints a quantity. Inside the program sizes are
bytes (int), times are seconds (float), rates are 0 to 1 (float). Where two readers would
read one spelling differently it is refused with the reason, never guessed.
"""

from __future__ import annotations

import re
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
"""The only size units: the binary ones have one reading everywhere."""

TIMES = {
    "us": Decimal("0.000001"),
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "min": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}

LARGEST_SIZE = 1 << 60
LONGEST = 366 * 86400.0
MOST_IN_A_RANGE = 1000

_NUMBER = r"[0-9]{1,19}(?:\.[0-9]{1,18})?"
_SIZE = re.compile(rf"({_NUMBER}) ?([A-Za-z]*)")
_TIME_PART = re.compile(rf"({_NUMBER}) ?(us|ms|s|min|m|h|d)")
_TIME = re.compile(rf"(-?)((?:{_NUMBER} ?(?:us|ms|s|min|m|h|d))+)")
_RATE = re.compile(rf"({_NUMBER}) ?%")
_PLAIN = re.compile(rf"-?{_NUMBER}")
_RANGE = re.compile(
    r"(?P<low>[^.]+(?:\.[0-9][^.]*)?)\.\.(?P<high>[^*/+]+)(?P<how>[*/+])(?P<step>.+)"
)


class Unfit(ValueError):
    """A quantity that can not be taken.

    Attributes:
        why: Why not, as a clause.
        fix: What to write in its place.
    """

    def __init__(self, why: str, fix: str) -> None:
        self.why, self.fix = why, fix
        super().__init__(f"{why}; {fix}")


def parse_size(text: str) -> int:
    """Bytes of "256MiB".

    >>> parse_size("256MiB"), parse_size("1.5GiB"), parse_size("512B")
    (268435456, 1610612736, 512)

    Raises:
        Unfit: any other spelling, "256mb" and "256" among them.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise Unfit("not a size", "a number with KiB, MiB, GiB or TiB, such as 256MiB")
    number, unit = match.groups()
    if unit not in SIZES:
        raise _wrong_size_unit(number, unit)
    amount = Decimal(number) * SIZES[unit]
    if amount != amount.to_integral_value():
        raise Unfit("this is no whole number of bytes", "a smaller unit, such as KiB")
    if amount > LARGEST_SIZE:
        raise Unfit("larger than any machine there is", f"at most {show_size(LARGEST_SIZE)}")
    return int(amount)


def _wrong_size_unit(number: str, unit: str) -> Unfit:
    if not unit:
        return Unfit(
            "a size without a unit: bytes for one reader, megabytes for the next",
            f"write {number}MiB, or {number}B for bytes",
        )
    letter = unit[0].upper()
    meant = "B" if unit in {"b", "bytes", "Bytes"} else f"{letter}iB"
    if meant not in SIZES:
        return Unfit(f'"{unit}" is no unit of size', f"write {number}MiB, or KiB, GiB, TiB")
    if meant == "B":
        return Unfit(f'"{unit}" may be bits or bytes', f"write {number}B")
    power = list(SIZES).index(meant)
    short, whole = unit.lower(), unit.lower().rstrip("b")
    if whole == letter.lower():
        why = (
            f"docker reads {short} as {'*'.join(['1024'] * power)}, people read it as "
            f"{'*'.join(['1000'] * power)}; a result must not depend on the reader"
        )
    else:
        why = f'"{unit}" is no unit of size here'
    return Unfit(why, f"write {number}{meant}")


def show_size(amount: int) -> str:
    """The shortest exact spelling: `parse_size(show_size(n)) == n`.

    >>> show_size(134217728), show_size(1610612736), show_size(1000)
    ('128MiB', '1536MiB', '1000B')
    """
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if amount and amount % SIZES[unit] == 0:
            return f"{amount // SIZES[unit]}{unit}"
    return f"{amount}B"


def parse_seconds(text: str) -> float:
    """Seconds of "1.5s", "250ms", "1h30m", "-20ms"; a bare "0" needs no unit.

    >>> parse_seconds("250ms"), parse_seconds("1h30m"), parse_seconds("-20ms")
    (0.25, 5400.0, -0.02)

    Raises:
        Unfit: any other spelling.
    """
    text = text.strip()
    if text in {"0", "-0", "0.0"}:
        return 0.0
    match = _TIME.fullmatch(text)
    if match is None:
        if _PLAIN.fullmatch(text):
            raise Unfit(
                "a time without a unit: seconds for one reader, milliseconds for the next",
                f"write {text}s or {text}ms",
            )
        raise Unfit("not a time", "a number with us, ms, s, m, h or d, such as 250ms or 1.5s")
    with localcontext() as context:
        context.prec = 60
        total = sum(
            (Decimal(number) * TIMES[unit] for number, unit in _TIME_PART.findall(match[2])),
            Decimal(0),
        )
    if total > Decimal(LONGEST):
        raise Unfit("longer than a year", "a time somebody will wait for")
    value = float(total)
    return -value if match[1] and value else value


def show_seconds(value: float) -> str:
    """The exact spelling in the unit a reader expects: `parse_seconds(show_seconds(x)) == x`.

    >>> show_seconds(0.0), show_seconds(0.25), show_seconds(1.5), show_seconds(5400)
    ('0s', '250ms', '1.5s', '5400s')
    """
    number = Decimal(repr(float(value)))
    size = abs(number)
    if number == 0:
        return "0s"
    unit = "s" if size >= 1 else "ms" if size >= TIMES["ms"] else "us"
    shown = f"{number / TIMES[unit]:f}"
    return (shown.rstrip("0").rstrip(".") if "." in shown else shown) + unit


def parse_rate(text: str) -> float:
    """A probability of "5%".

    >>> parse_rate("5%"), parse_rate("0.1%")
    (0.05, 0.001)

    Raises:
        Unfit: any other spelling, or above 100%.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise Unfit("not a rate", "a percentage such as 5%")
    value = float(Decimal(match[1]) / 100)
    if value > 1:
        raise Unfit("a rate is at most 100%", "a percentage from 0% to 100%")
    return value


def show_rate(value: float) -> str:
    """
    >>> show_rate(0.05), show_rate(0.125)
    ('5%', '12.5%')
    """
    shown = f"{Decimal(repr(float(value))) * 100:f}"
    return (shown.rstrip("0").rstrip(".") if "." in shown else shown) + "%"


def parse_number(text: str) -> Decimal:
    """A plain decimal number, "2" or "0.5".

    Raises:
        Unfit: anything else, exponents, infinities and NaN among them.
    """
    if not _PLAIN.fullmatch(text.strip()):
        raise Unfit("not a number", "a plain number such as 2 or 0.5")
    return Decimal(text.strip())


def _show_number(value: Decimal) -> str:
    shown = f"{value:f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


_KINDS: tuple[tuple[Callable[[str], Decimal], Callable[[Decimal], str]], ...] = (
    (parse_number, _show_number),
    (lambda text: Decimal(parse_size(text)), lambda value: show_size(int(value))),
    (
        lambda text: Decimal(repr(parse_seconds(text))),
        lambda value: show_seconds(float(value)),
    ),
    (lambda text: Decimal(repr(parse_rate(text))), lambda value: show_rate(float(value))),
)


def looks_like_range(text: str) -> bool:
    """Whether it has the shape LOW..HIGH*FACTOR, /COUNT or +STEP with a number in front."""
    return re.match(r"-?[0-9][^.]*(\.[0-9][^.]*)?\.\.", text) is not None


def expand_range(text: str) -> tuple[str, ...]:
    """The values of a range, both ends meant to be in it.

    `*N` multiplies, `+N` adds, `/N` gives N values evenly spaced:

    >>> expand_range("64MiB..512MiB*2")
    ('64MiB', '128MiB', '256MiB', '512MiB')
    >>> expand_range("0..1s/5")
    ('0s', '250ms', '500ms', '750ms', '1s')
    >>> expand_range("1..4+1")
    ('1', '2', '3', '4')

    Raises:
        Unfit: ends of different kinds, a range that runs backwards or never ends.
    """
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise Unfit(
            "a range says where it starts, where it ends and how it goes on",
            "64MiB..512MiB*2 (times two), 0..1s/5 (five values) or 1..4+1 (steps of one)",
        )
    low, high, how, step = (match[name].strip() for name in ("low", "high", "how", "step"))
    failure: Unfit | None = None
    for parse, show in _KINDS:
        try:
            first, last = parse(low), parse(high)
        except Unfit as unfit:
            failure = unfit
            # A bare 0 has every unit, so `0..1GiB/5` is a range of sizes.
            if low != "0":
                continue
            try:
                first, last = Decimal(0), parse(high)
            except Unfit:
                continue
        values = _walk(first, last, how, step, parse)
        return tuple(dict.fromkeys(show(value) for value in values))
    raise Unfit(
        f"{low} and {high} are not two sizes, two times, two rates or two numbers",
        "the same unit on both ends, such as 64MiB..512MiB*2",
    ) from failure


def _walk(
    first: Decimal, last: Decimal, how: str, step: str, parse: Callable[[str], Decimal]
) -> list[Decimal]:
    if last <= first:
        raise Unfit("the range runs backwards", "the smaller end first")
    if how == "+":
        by = parse(step)
        if by <= 0:
            raise Unfit("a step of nothing never arrives", "a step above 0")
        if (last - first) / by >= MOST_IN_A_RANGE:
            raise Unfit(f"more than {MOST_IN_A_RANGE} values", "a larger step")
        return [first + by * i for i in range(int((last - first) / by) + 1)]
    number = parse_number(step)
    if how == "/":
        if number != number.to_integral_value() or not 2 <= number <= MOST_IN_A_RANGE:
            raise Unfit(
                "the number after / is how many values there are, both ends included",
                f"a whole number from 2 to {MOST_IN_A_RANGE}",
            )
        return [first + (last - first) * i / (int(number) - 1) for i in range(int(number))]
    if number <= 1 or first <= 0:
        raise Unfit("multiplying never arrives from there", "a start above 0, a factor above 1")
    values = [first]
    while values[-1] * number <= last:
        values.append(values[-1] * number)
        if len(values) > MOST_IN_A_RANGE:
            raise Unfit(f"more than {MOST_IN_A_RANGE} values", "a larger factor")
    return values
