"""Small questions that a machine asks of what runs in it, without the SDK: a start must not
wait for an import.

Rule: each is one look, never raises for what it finds, and waits at most two seconds.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(1)
        try:
            s.connect(str(path))
        except OSError:
            return False
    return True


def answers(path: Path) -> bool:
    return get(path, "/_ping", raw=True) is not None


def get(path: Path, target: str, *, raw: bool = False) -> dict[str, Any] | None:
    """One GET over the engine's socket, without the SDK: a start must not wait for its import."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(2)
        try:
            s.connect(str(path))
            s.sendall(f"GET {target} HTTP/1.0\r\nHost: pen\r\n\r\n".encode())
            answer = b""
            while chunk := s.recv(65536):
                answer += chunk
        except OSError:
            return None
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        return None
    return {} if raw else json.loads(body)


def runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def shim(init: int, container: str) -> int | None:
    """Kernel pid of the shim of a container: found by its command line, in this PID namespace."""
    try:
        home = os.readlink(f"/proc/{init}/ns/pid")
    except OSError:
        return None
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            argv = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            if (
                b"containerd-shim" in argv[0]
                and container.encode() in argv
                and os.readlink(f"/proc/{entry}/ns/pid") == home
            ):
                return int(entry)
        except OSError:
            continue
    return None
