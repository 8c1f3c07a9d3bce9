"""The engine's event stream and State objects, as typed facts.

A record as `docker events --format json` (and the API) writes it:

    >>> parse_docker_event(
    ...     '{"Type":"container","Action":"kill","Actor":{"ID":"' + "ab" * 32 +
    ...     '","Attributes":{"signal":"9"}},"timeNano":1700000000123456789}'
    ... ).signal
    9
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class EngineFact:
    """One record of the stream. action has no ": …" tail; signal and exit_code where it says them."""

    type: str
    action: str
    id: str
    wall: int
    signal: int | None = None
    exit_code: int | None = None
    attributes: dict[str, str] = field(default_factory=dict, compare=False)


def engine_fact(
    type_: str, action: str, id_: str, wall: int, attributes: dict[str, str]
) -> EngineFact:
    """The same from a record's members. "exec_create: sh -c …" is cut at its colon:
    what follows is the command, in the words of whoever ran it."""
    return EngineFact(
        type_,
        action.split(":", 1)[0].strip(),
        id_,
        wall,
        _int(attributes.get("signal")),
        _int(attributes.get("exitCode")),
        attributes,
    )


def parse_docker_event(text: str) -> EngineFact | None:
    """Read one JSON record of the stream; None for anything else."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    actor = body.get("Actor")
    actor = actor if isinstance(actor, dict) else {}
    attributes = actor.get("Attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    kind, action, wall = body.get("Type"), body.get("Action"), body.get("timeNano")
    ident = actor.get("ID", body.get("id"))
    if not (isinstance(kind, str) and isinstance(action, str) and isinstance(ident, str)):
        return None
    if not isinstance(wall, int) or isinstance(wall, bool):
        return None
    clean = {k: v for k, v in attributes.items() if isinstance(v, str)}
    return engine_fact(kind, action, ident, wall, clean)


def _int(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?\d{1,10}", text, re.ASCII) else None


_STAMP = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(?P<frac>\d{1,9})\d*)?(?P<zone>Z|[+-]\d\d:\d\d)",
    re.ASCII,
)


def parse_stamp(text: Any) -> int | None:
    """RFC 3339 with nanoseconds → ns since 1970; None for Docker's zero time and anything else.

    >>> parse_stamp("1970-01-01T00:00:01.5Z")
    1500000000
    >>> parse_stamp("0001-01-01T00:00:00Z") is None
    True
    """
    m = _STAMP.fullmatch(text) if isinstance(text, str) else None
    if m is None or m["day"].startswith("0001"):
        return None
    try:
        moment = datetime.fromisoformat(m["day"] + m["zone"].replace("Z", "+00:00"))
    except ValueError:
        return None
    whole = moment - datetime(1970, 1, 1, tzinfo=UTC)
    seconds = whole.days * 86400 + whole.seconds
    return seconds * 10**9 + int((m["frac"] or "0").ljust(9, "0"))


@dataclass(frozen=True, slots=True)
class State:
    """Docker's State of a container. A hint about the past, a fact about what Docker believes."""

    status: str
    running: bool
    pid: int | None
    exit_code: int | None
    oom_killed: bool | None
    error: str
    started: int | None
    finished: int | None
    health: str | None = None


def parse_state(body: dict[str, Any] | None) -> State | None:
    """An inspect's State, or {"Status": …} alone; None when there is no status in it.

    >>> parse_state({"Status": "exited", "ExitCode": 137, "OOMKilled": True}).oom_killed
    True
    """
    if not isinstance(body, dict) or not isinstance(body.get("Status"), str):
        return None
    status = body["Status"].lower()
    running = body.get("Running")
    code, pid, oom = body.get("ExitCode"), body.get("Pid"), body.get("OOMKilled")
    error, health = body.get("Error"), body.get("Health")
    return State(
        status,
        running if isinstance(running, bool) else status in ("running", "paused", "restarting"),
        pid if isinstance(pid, int) and pid > 0 else None,
        code if isinstance(code, int) else None,
        oom if isinstance(oom, bool) else None,
        error if isinstance(error, str) else "",
        parse_stamp(body.get("StartedAt")),
        parse_stamp(body.get("FinishedAt")),
        health.get("Status") if isinstance(health, dict) else None,
    )
