"""The wire format: what is written is read back, and what is broken is None."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import events

SAMPLES: dict[str, Any] = {
    "int": 7, "int | None": 7, "str": "é\n", "str | None": None, "bool": True, "float": 1.5,
    "float | None": 2, "list[int]": [1, 2], "list[str]": ["a"], "list[float]": [0.5, 1],
    "dict[str, str]": {"a": "b"}, "dict[str, int]": {"a": 1}, "dict[str, list[int]]": {"lo": [1, 2]}, "dict[str, Any]": {"a": [None]},
    "dict[str, Any] | None": {"Status": "running"}, "dict[str, dict[str, int]]": {"/": {"free": 1}},
    "list[dict[str, Any]]": [{"pid": 1}],
}  # fmt: skip


def sample(cls: type[events.Event], **changes: Any) -> dict[str, Any]:
    """A body with every member of that class."""
    body = {f.name: SAMPLES[str(f.type)] for f in fields(cls)}
    return {"kind": cls.kind, **body, **changes}


@pytest.mark.parametrize("cls", events.KINDS.values(), ids=events.KINDS.keys())
def test_round_trip(cls):
    """Every kind is read back as it was written, with all members and with the needed ones alone."""
    event = events.decode(json.dumps(sample(cls)))
    assert isinstance(event, cls)
    assert event == events.decode(events.encode(event))
    needed = {"kind": cls.kind} | {
        f.name: SAMPLES[str(f.type)]
        for f in fields(cls)
        if f.default is MISSING and f.default_factory is MISSING
    }
    assert isinstance(events.decode(json.dumps(needed)), cls)


@pytest.mark.parametrize("cls", events.KINDS.values(), ids=events.KINDS.keys())
def test_wrong_types(cls):
    """A member of a wrong type or a missing one makes the whole line None."""
    for f in fields(cls):
        wrong = 5 if "str" in str(f.type) and "dict" not in str(f.type) else "x"
        if str(f.type).startswith("dict[str, Any]") or "int" in str(f.type):
            wrong = "x"
        if str(f.type) in ("str", "str | None"):
            wrong = 5
        assert events.decode(json.dumps(sample(cls, **{f.name: wrong}))) is None, f.name
        if f.default is MISSING and f.default_factory is MISSING:
            body = sample(cls)
            del body[f.name]
            assert events.decode(json.dumps(body)) is None, f.name


def test_a_bool_is_no_number():
    """JSON's true is not taken for 1 where a time belongs."""
    body = sample(events.Pong, t=True)
    assert events.decode(json.dumps(body)) is None


@settings(max_examples=25, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_any_json_is_an_event_or_none(body):
    """Arbitrary JSON is an event or None, never an exception."""
    assert events.decode(json.dumps(body)) is None
    if isinstance(body, dict):
        for kind in events.KINDS:
            found = events.decode(json.dumps({**body, "kind": kind}))
            assert found is None or found.kind == kind


@given(st.binary())
def test_any_bytes_are_none(data):
    """Arbitrary bytes are no event and no exception."""
    found = events.decode(data)
    assert found is None or isinstance(found, events.Event)
