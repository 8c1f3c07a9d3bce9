"""A way out of a pen for pulls and builds: a user-mode network, as a plain program of the host.

Rule: the host's own network is not touched: no bridge, no rule, no forwarding. Rules are
written in the pen's namespace alone. Trials do not need it; it is there when an image is
not, and goes with the pen.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from harness import clock, process

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROGRAM = "slirp4netns"
RESOLVER = "10.0.2.3"
"""Where slirp4netns answers questions for names; a pen asks there from its start."""


class Uplink:
    """slirp4netns beside one pen."""

    def __init__(self, root: Callable[..., process.Result], init_pid: int, run: Path) -> None:
        self._root, self._init, self._run = root, init_pid, run
        self._child: process.Child | None = None
        self._leave = -1

    def start(self) -> str:
        """Why it can not be had; "" when it is up."""
        program = process.which(PROGRAM)
        if program is None:
            return f"{PROGRAM} is not installed"
        ready, told = os.pipe()
        # It leaves when the other end of this pipe is closed: by us, or by our death.
        leave, self._leave = os.pipe()
        log = self._run / "logs/uplink.log"
        try:
            with log.open("wb") as errors:
                self._child = process.spawn(
                    (
                        program, "--configure", "--mtu=65520", "--disable-host-loopback",
                        f"--ready-fd={told}",
                        f"--exit-fd={leave}", str(self._init), "tap0",
                    ),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=(told, leave),
                )  # fmt: skip
            os.close(told)
            told = -1
            os.set_blocking(ready, False)
            if not clock.wait_until(lambda: self._says(ready), deadline=10):
                self.stop()
                words = log.read_text(errors="replace").strip().splitlines()
                return f"{PROGRAM} did not come up: {words[-1] if words else 'it said nothing'}"
        finally:
            os.close(ready)
            os.close(leave)
            if told >= 0:
                os.close(told)
        return self._rules()

    def _says(self, ready: int) -> bool:
        try:
            return os.read(ready, 1) == b"1"
        except BlockingIOError:
            return False

    def _rules(self) -> str:
        """Containers (builds) leave under its address."""
        script = (
            "echo 1 > /proc/sys/net/ipv4/ip_forward"
            " && iptables -w -t nat -A POSTROUTING -o tap0 -j MASQUERADE"
        )
        result = self._root(("sh", "-c", script), deadline=15)
        if not result.ok:
            self.stop()
            return f"rules of the pen's own network: {result.why()}"
        return ""

    def stop(self) -> None:
        if self._leave >= 0:
            os.close(self._leave)
            self._leave = -1
        if self._child is not None:
            self._child.stop(grace=2)
            self._child = None
