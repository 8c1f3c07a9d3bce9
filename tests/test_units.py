"""Quantities: one reading each, exact both ways, and a reason for every refusal."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import units


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("1B", 1),
        ("1KiB", 1024),
        ("256MiB", 256 << 20),
        ("1.5GiB", 3 << 29),
        ("2 TiB", 2 << 40),
        ("0.5KiB", 512),
    ],
)
def test_a_size_is_what_it_says(text, bytes_):
    """Binary units only, and a fraction where it is a whole number of bytes."""
    assert units.parse_size(text) == bytes_


@pytest.mark.parametrize(
    ("text", "why", "fix"),
    [
        pytest.param("256mb", "docker reads mb as 1024*1024", "256MiB", id="docker-and-people"),
        pytest.param("256m", "docker reads m as 1024*1024", "256MiB", id="docker-letter"),
        pytest.param("1G", "docker reads g as 1024*1024*1024", "1GiB", id="capital"),
        pytest.param("1Gi", "no unit of size", "1GiB", id="kubernetes"),
        pytest.param("256", "without a unit", "256MiB", id="bare"),
        pytest.param("1b", "bits or bytes", "1B", id="bits"),
        pytest.param("1.0001B", "no whole number", "smaller unit", id="half-a-byte"),
        pytest.param("99999999TiB", "larger than any machine", "at most", id="absurd"),
        pytest.param("-1MiB", "not a size", "256MiB", id="negative"),
        pytest.param("lots", "not a size", "256MiB", id="word"),
        pytest.param("", "not a size", "256MiB", id="empty"),
        pytest.param("infMiB", "not a size", "256MiB", id="infinite"),
        pytest.param("1e3MiB", "", "", id="exponent"),
        pytest.param("1" * 5000 + "MiB", "not a size", "256MiB", id="endless"),
    ],
)
def test_a_size_that_two_readers_read_differently_is_refused(text, why, fix):
    """The reason is given, and what to write in its place."""
    with pytest.raises(units.Unfit) as caught:
        units.parse_size(text)
    assert why in caught.value.why
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0), ("0s", 0.0), ("250ms", 0.25), ("1.5s", 1.5), ("2m", 120.0), ("2min", 120.0),
        ("1h30m", 5400.0), ("-20ms", -0.02), ("5us", 5e-6), ("1d", 86400.0),
    ],
)  # fmt: skip
def test_a_time_is_what_it_says(text, seconds):
    """Exactly the float that a person would write down."""
    assert units.parse_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["5", "1.5", "s", "", "1 year", "--1s", "1s-2s", "nan", "400d", "1e3s", "9" * 5000]
)
def test_a_time_without_one_reading_is_refused(text):
    """Seconds or milliseconds: the file must say."""
    with pytest.raises(units.Unfit):
        units.parse_seconds(text)


@given(st.integers(0, units.LARGEST_SIZE))
def test_a_size_survives_being_printed(amount):
    """Nothing is rounded on the way to a person and back."""
    assert units.parse_size(units.show_size(amount)) == amount


@given(st.floats(-units.LONGEST, units.LONGEST).filter(lambda x: x == 0 or abs(x) >= 1e-9))
def test_a_time_survives_being_printed(value):
    """Nothing is rounded on the way to a person and back."""
    shown = units.show_seconds(value)
    digits = shown.lstrip("-").rstrip("ums").partition(".")
    if len(digits[2]) <= 18:
        assert units.parse_seconds(shown) == value


@given(st.integers(0, 1000))
def test_a_rate_survives_being_printed(thousandths):
    """Percentages are exact in both directions."""
    assert units.parse_rate(units.show_rate(thousandths / 1000)) == thousandths / 1000


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("64MiB..512MiB*2", ("64MiB", "128MiB", "256MiB", "512MiB")),
        ("0..1s/5", ("0s", "250ms", "500ms", "750ms", "1s")),
        ("0s..100ms/3", ("0s", "50ms", "100ms")),
        ("1..4+1", ("1", "2", "3", "4")),
        ("0.5..2*2", ("0.5", "1", "2")),
        ("0..1GiB/3", ("0B", "512MiB", "1GiB")),
        ("64MiB..100MiB+16MiB", ("64MiB", "80MiB", "96MiB")),
        ("0%..10%/3", ("0%", "5%", "10%")),
        ("-100ms..100ms/3", ("-100ms", "0s", "100ms")),
        ("1..10*3", ("1", "3", "9")),
    ],
)
def test_a_range_is_written_out(text, values):
    """In the unit of its ends, the first one always in it."""
    assert units.expand_range(text) == values


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("512MiB..64MiB*2", id="backwards"),
        pytest.param("1MiB..2s*2", id="two-kinds"),
        pytest.param("0..1GiB*2", id="from-nothing"),
        pytest.param("1..2*1", id="stands-still"),
        pytest.param("1..2*0.5", id="shrinks"),
        pytest.param("1..2+0", id="no-step"),
        pytest.param("1..1000000+1", id="too-many-steps"),
        pytest.param("1..999999999999999*1.000001", id="too-many-factors"),
        pytest.param("0..1s/1", id="one-value"),
        pytest.param("0..1s/2.5", id="half-a-value"),
        pytest.param("1..2", id="no-way-on"),
        pytest.param("1..2*x", id="no-number"),
    ],
)
def test_a_range_that_leads_nowhere_is_refused(text):
    """Before it can take for ever."""
    with pytest.raises(units.Unfit):
        units.expand_range(text)


@given(st.text(alphabet="0123456789.MGikBsm%*/+- x", max_size=24))
def test_any_text_is_a_quantity_or_unfit(text):
    """Invariant: a number that is finite, or Unfit; never another exception."""
    for parse in (units.parse_size, units.parse_seconds, units.parse_rate, units.expand_range):
        try:
            value = parse(text)
        except units.Unfit as unfit:
            assert unfit.why
            assert unfit.fix
        else:
            assert isinstance(value, tuple) or math.isfinite(value)
