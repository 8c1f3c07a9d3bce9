"""A far engine under a near unix socket: bytes are passed on, nothing is read.

Rule: the SDK, the probe and injected clients all speak to one kind of address. ssh makes
its own forward (the user's ssh, with the user's settings and keys, but a connection of
its own); tcp and TLS are relayed by a thread pair per connection.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from harness import clock, process
from harness.errors import EnvironmentInvalid

if TYPE_CHECKING:
    from pathlib import Path

    from harness.machine.contexts import Endpoint

SSH = (
    "ssh", "-T", "-o", "BatchMode=yes", "-o", "ControlPath=none", "-o", "ConnectTimeout=10",
    "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3",
)  # fmt: skip


def ssh_target(url: str) -> tuple[str, ...]:
    """ssh's own arguments for a URL.

    >>> ssh_target("ssh://me@build.example:2222")
    ('-p', '2222', 'me@build.example')
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    user = f"{parts.username}@" if parts.username else ""
    port = ("-p", str(parts.port)) if parts.port else ()
    return (*port, user + host)


def far_socket(url: str) -> str:
    """Where the engine listens over there: an ssh URL's path, or docker's default.

    >>> far_socket("ssh://me@build.example"), far_socket("ssh://build.example/run/other.sock")
    ('/var/run/docker.sock', '/run/other.sock')
    """
    path = urlsplit(url).path
    return path if path.strip("/") else "/var/run/docker.sock"


class Relay:
    """Listens at `path` for as long as it is open."""

    def __init__(self, endpoint: Endpoint, path: Path) -> None:
        self.path = path
        self._endpoint = endpoint
        self._ssh: process.Child | None = None
        self._listener: socket.socket | None = None

    def open(self) -> None:
        """Raises EnvironmentInvalid where ssh can not connect; tcp is found out on first use."""
        if self._endpoint.url.startswith("ssh://"):
            self._open_ssh()
        else:
            self._open_tcp()

    def close(self) -> None:
        if self._ssh is not None:
            self._ssh.stop(grace=1)
            self._ssh = None
        if self._listener is not None:
            # Wakes the thread that waits in accept.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.path.unlink(missing_ok=True)

    def _open_ssh(self) -> None:
        url = self._endpoint.url
        far = far_socket(url)
        errors = self.path.with_suffix(".log")
        with errors.open("wb") as log:
            self._ssh = process.spawn(
                (*SSH, "-N", "-o", "ExitOnForwardFailure=yes", "-L", f"{self.path}:{far}",
                 *ssh_target(url)),
                stderr=log,
            )  # fmt: skip
        there = clock.wait_until(
            lambda: self.path.exists() or not self._alive(), deadline=20, every=0.02
        )
        if not there or not self.path.exists():
            self.close()
            raise EnvironmentInvalid(
                f"no ssh connection to {url}",
                why=errors.read_text(errors="replace").strip() or "it did not come up within 20 s",
                mend="it must work without a question: ssh -o BatchMode=yes "
                + " ".join(ssh_target(url))
                + " true",
            )

    def _alive(self) -> bool:
        return self._ssh is not None and self._ssh.alive

    def _open_tcp(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.path))
        os.chmod(self.path, 0o600)
        listener.listen(64)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name="relay", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(near,), name="relay", daemon=True).start()

    def _pass(self, near: socket.socket) -> None:
        parts = urlsplit(self._endpoint.url)
        tls = dict(self._endpoint.tls)
        port = parts.port or (2376 if tls else 2375)
        try:
            far: socket.socket = socket.create_connection((parts.hostname or "", port), timeout=10)
            if tls:
                far = self._context(tls).wrap_socket(far, server_hostname=parts.hostname)
            far.settimeout(None)
        except OSError:
            # What the near side sees is what a dead engine looks like: that is what it is.
            near.close()
            return
        other = threading.Thread(target=_copy, args=(near, far), name="relay", daemon=True)
        other.start()
        _copy(far, near)
        other.join()
        near.close()
        far.close()

    def _context(self, tls: dict[str, str]) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=tls.get("ca"))
        if not self._endpoint.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if "cert" in tls and "key" in tls:
            context.load_cert_chain(tls["cert"], tls["key"])
        return context


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Bytes until the end of one direction; the end is passed on too."""
    try:
        while chunk := source.recv(65536):
            sink.sendall(chunk)
    except OSError:
        pass
    for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
        try:
            end.shutdown(how)
        except OSError:
            continue
