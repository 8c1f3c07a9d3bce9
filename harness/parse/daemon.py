r"""Lines of dockerd and containerd (logfmt or JSON), as typed facts.

>>> parse_daemon(
...     'time="2026-11-23T13:00:00.1Z" level=info msg="Processing signal \'terminated\'"'
... )
DaemonFact(what='signal', container=None, detail='terminated', daemon='')
>>> parse_daemon('{"level":"info","msg":"API listen on /run/docker.sock","time":"2026-11-23T13:00:00Z"}')
DaemonFact(what='ready', container=None, detail='/run/docker.sock', daemon='')
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Record:
    """One log line taken apart: its message and its fields."""

    message: str
    level: str
    fields: dict[str, str]


@dataclass(frozen=True, slots=True)
class DaemonFact:
    """What one daemon line says.

    what: signal (its own order to leave) · starting · ready · loading · loaded · shutdown ·
    force (grace expired) · stuck · containerd-died · containerd-started · shim-gone ·
    task-timeout · no-space · unlogged · no-fds · no-threads · crash · pidfile · reload · start-failed · api-call.
    """

    what: str
    container: str | None
    detail: str
    daemon: str = ""


_PAIR = re.compile(r'(?P<key>[\w.-]+)=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s"]*))(?=\s|$)')
_ID = re.compile(r"[0-9a-f]{64}")
_NO_THREAD = re.compile(
    r"runtime/cgo: pthread_create failed: Resource temporarily unavailable"
    r"|runtime: failed to create new OS thread \(have \d+ already; errno=11\)"
)
_CRASH = re.compile(r"(?:panic|fatal error|SIG[A-Z]{2,8}): .*", re.DOTALL)


def parse_record(text: str) -> Record | None:
    r"""A logfmt or JSON line → message, level, fields; None for anything else.

    >>> r = parse_record('time="t" level=warning msg="a \\"b\\" c" container=ab12 error="x y"')
    >>> r.message, r.fields["error"]
    ('a "b" c', 'x y')
    """
    text = text.strip()
    if text.startswith("{"):
        return _json_record(text)
    at = 0
    fields: dict[str, str] = {}
    while at < len(text):
        m = _PAIR.match(text, at)
        if m is None:
            return None
        value = m["quoted"]
        fields.setdefault(m["key"], m["bare"] if value is None else _unescape(value))
        at = m.end()
        while at < len(text) and text[at].isspace():
            at += 1
    if "msg" not in fields:
        return None
    return Record(fields["msg"], fields.get("level", ""), fields)


def _json_record(text: str) -> Record | None:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or not isinstance(body.get("msg"), str):
        return None
    fields = {k: v if isinstance(v, str) else json.dumps(v) for k, v in body.items()}
    return Record(fields["msg"], fields.get("level", ""), fields)


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), text)


# Message → what. Each is matched against the whole message, never searched for in it:
# a container's log line or name can stand inside another message.
_MESSAGES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), what)
    for pattern, what in (
        (r"Processing signal '(?P<d>[\w ]{1,40})'", "signal"),
        (r"Starting up", "starting"),
        (r"API listen on (?P<d>\S+)", "ready"),
        (r"Loading containers: start\.", "loading"),
        (r"Loading containers: done\.", "loaded"),
        (r"Daemon shutdown complete", "shutdown"),
        (r"Got signal to reload configuration.*", "reload"),
        (r"Container failed to exit within (?P<d>\S+) of signal \d+ - using the force", "force"),
        (
            r"Container failed to exit within (?P<d>10 seconds|10s) of kill - trying direct SIGKILL",
            "stuck",
        ),
        (r"containerd did not exit successfully", "containerd-died"),
        (r"(?:Waiting for containerd to be ready|.*transport is closing.*)", "containerd-died"),
        (r"started new containerd process", "containerd-started"),
        (r"shim disconnected", "shim-gone"),
        (r"cleaning up after shim disconnected", "shim-gone"),
        (r"get state for (?P<d>[0-9a-f]{64})", "task-timeout"),
        (r"Failed to log msg .* for logger (?P<d>[\w-]+): .*no space left on device", "unlogged"),
        (r"http: Accept error: .*accept4: too many open files.*", "no-fds"),
        (r"failed to start daemon: pid file found.*", "pidfile"),
        (r"failed to start daemon: .*", "start-failed"),
        (r"Calling (?P<d>(?:POST|DELETE) /\S{1,300})", "api-call"),
    )
)


def parse_daemon(text: str) -> DaemonFact | None:
    """Read one line of a daemon's log; None when it is of no interest or unreadable."""
    record = parse_record(text)
    if record is None:
        bare = text.strip()
        if _NO_THREAD.fullmatch(bare):
            return DaemonFact("no-threads", None, bare[:200])
        if _CRASH.fullmatch(bare):
            return DaemonFact("crash", None, bare[:200])
        if bare.startswith("failed to start daemon: "):
            return DaemonFact(
                "pidfile" if "pid file found" in bare else "start-failed", None, bare[:200]
            )
        return None
    fields = record.fields
    container = next(
        (v for k in ("container", "id", "containerID") if _ID.fullmatch(v := fields.get(k, ""))),
        None,
    )
    for pattern, what in _MESSAGES:
        if m := pattern.fullmatch(record.message):
            detail = m.groupdict().get("d") or ""
            if what == "task-timeout":
                if "context deadline exceeded" not in fields.get("error", ""):
                    return None
                container = detail
            return DaemonFact(what, container, detail)
    # Its own complaint, not a quoted one: the error member is the daemon's.
    if record.level in ("error", "fatal") and fields.get("error", "").endswith(
        "no space left on device"
    ):
        return DaemonFact("no-space", container, fields["error"][-200:])
    return None
