r"""What the engine, containerd and runc answer to an exec (or a start), as a closed list.

    >>> parse_exec_error("Container " + "ab" * 32 + " is not running", 409).what
    'not-running'
    >>> parse_exec_error(
    ...     'OCI runtime exec failed: exec failed: unable to start container process: '
    ...     'exec: "/bin/nosuch": stat /bin/nosuch: no such file or directory: unknown', 126).what
    'command-missing'

The texts are those of API 1.41 to 1.52 (dockerd 20.10 to 29, runc 1.1 to 1.3). A text
that a command itself printed can look the same: callers give the engine's words only,
or know what they do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExecFault:
    """What a refusal says. container: the id in the text, when there is one.

    what: not-running · dying · removing · no-such-container · paused · restarting ·
    frozen · containerd-down · dockerd-unreachable · no-fds · no-task · shim-gone ·
    command-missing · not-executable · bad-cwd · cwd-outside · bad-user · bad-format ·
    bad-request · bad-tty · no-permission · no-space · no-memory · no-allocation · no-pids ·
    nofile · source-missing · network-missing · read-only · timeout.
    """

    what: str
    container: str | None = None
    detail: str = ""


# Specific before general. "dying" are the texts of an exec that met a main process which
# the kernel had already ended while the engine still said running.
_TABLE: tuple[tuple[str, str], ...] = (
    ("removing", r"container (?P<id>[0-9a-f]{64}) is not running: Removal In Progress"),
    ("not-running", r"container (?P<id>[0-9a-f]{64}|\S+) is not running(?:: .*)?"),
    ("no-such-container", r"No such container: (?P<d>\S+)"),
    ("no-such-exec", r"No such exec instance: (?P<d>\S+)"),
    ("paused", r"Container (?P<d>\S+) is paused, unpause the container before exec"),
    ("restarting", r"Container (?P<id>[0-9a-f]{64}|\S+) is restarting, wait until the container is running"),
    ("no-task", r"container (?P<id>[0-9a-f]{64}) is in Running state but has no containerd Task set"),
    ("frozen", r"cannot exec in a paused container"),
    ("dying", r"cannot exec in a (?:stopped|deleted) (?:state|container)"),
    ("dying", r"(?:error writing config to pipe: )?write init-p: broken pipe"),
    ("dying", r"error executing setns process: exit status 1"),
    ("dying", r"read init-p: connection reset by peer"),
    ("dying", r"namespace path: lstat /proc/\d+/ns/\w+: no such file or directory"),
    ("dying", r"ttrpc: closed"),
    ("dying", r"(?:task|process) .{0,200}not found: not found"),
    ("shim-gone", r"^container is not running$"),
    ("no-fds", r"failed to open std\w+ fifo.*too many open files|accept4: too many open files"),
    ("containerd-down", r"(?:: unavailable$|transport is closing|connection closed: unavailable|containerd\.sock: connect: )"),
    ("dockerd-unreachable", r"Cannot connect to the Docker daemon|Is the docker daemon running"),
    ("dockerd-unreachable", r"error during connect|Connection aborted|RemoteDisconnected|connection refused|FileNotFoundError|ECONNREFUSED|ENOENT|[Cc]onnection reset"),
    ("no-permission", r"permission denied while trying to connect to the Docker daemon"),
    ("no-memory", r"possibly OOM-killed|OOM-killed \(memory limit too low\?\)"),
    ("no-allocation", r"cannot allocate memory"),
    ("no-pids", r"fork/exec (?P<d>\S{1,300}): resource temporarily unavailable"),
    ("bad-user", r"unable to find (?:user|group) (?P<d>[^:]+): no matching entries in (?:passwd|group) file"),
    ("cwd-outside", r"current working directory is outside of container mount namespace root"),
    ("bad-cwd", r'chdir to cwd \("(?P<d>.*?)"\) set in config\.json failed'),
    ("source-missing", r'error mounting "(?P<d>[^"]+)" to rootfs at "[^"]+"|bind source path does not exist: ?(?P<d2>\S*)'),
    ("network-missing", r"network (?P<d>\S+) not found|cannot join network of a non running container"),
    ("nofile", r"too many open files"),
    ("not-executable", r'exec: "(?P<d>.*?)": (?:permission denied|is a directory)|exec (?P<d2>\S+): permission denied|exec: "(?P<d3>.*?)": .*permission denied'),
    ("command-missing", r'exec: "(?P<d>.*?)": (?:stat .*: no such file or directory|executable file not found in \$PATH)|executable file `(?P<d2>[^`]*)` not found'),
    ("bad-format", r"exec (?:/proc/self/fd/\d+|(?P<d>\S+)): exec format error|exec: \"(?P<d2>.*?)\": .*exec format error"),
    ("command-missing", r"^exec (?P<d>\S+): no such file or directory$"),
    ("bad-request", r"No exec command specified"),
    ("bad-tty", r"the input device is not a TTY"),
    ("no-space", r"no space left on device"),
    ("read-only", r"read-only file system"),
    ("timeout", r"context deadline exceeded|[Rr]ead timed out|timed out waiting"),
)  # fmt: skip

_COMPILED = tuple(
    (what, re.compile(pattern, re.IGNORECASE | re.DOTALL)) for what, pattern in _TABLE
)

DEATH_TEXTS = frozenset({"not-running", "dying", "removing", "shim-gone"})
"""Answers that a dead or dying container gives. `no-such-container` may be another engine's."""


def parse_exec_error(text: str, http: int | None = None) -> ExecFault | None:
    """Which of the known refusals this text is; None when it is none of them.

    >>> parse_exec_error("Container web is paused, unpause the container before exec", 409).what
    'paused'
    >>> parse_exec_error("hello") is None
    True
    """
    text = text[:4000].strip()
    for what, pattern in _COMPILED:
        if m := pattern.search(text):
            groups = m.groupdict()
            detail = next((groups[k] for k in ("d", "d2", "d3") if groups.get(k)), "")
            ident = groups.get("id")
            return ExecFault(what, ident if ident and len(ident) == 64 else None, detail)
    if http == 400:
        return ExecFault("bad-request", None, text[:200])
    return None


def is_engine_text(text: str) -> bool:
    """Does the text stand where only the engine or its runtime writes (an exec that never began)?

    Such texts end the whole answer with runc's or containerd's own suffix.

    >>> is_engine_text("OCI runtime exec failed: exec failed: cannot exec in a stopped container: unknown")
    True
    >>> is_engine_text("sh: can't open '/work/x'")
    False
    """
    text = text.strip()
    return bool(
        text.startswith("OCI runtime exec failed: ")
        or re.search(
            r": (?:unknown|unavailable)$|^(?:task|process|container) .{1,200}: not found$", text
        )
        or re.fullmatch(r"failed to open std\w+ fifo: .{1,600}: too many open files", text)
        or re.fullmatch(r"container (?:\S+ )?is not running", text, re.IGNORECASE)
        or re.fullmatch(r"unable to find (?:user|group) \S+: no matching entries in \w+ file", text)
        or re.fullmatch(r"container \S+ is in Running state but has no containerd Task set", text)
    )
