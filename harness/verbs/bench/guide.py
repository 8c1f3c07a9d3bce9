"""What people run by hand: the loops and terminals of a debugging guide, as they are written.

Rule: the competitor is taken at its best. The guide's 10 ms loop asks whether `docker
inspect` succeeds, which it does for an exited container too, so that it never ends: here
it is repaired to ask for the status, and what costs it nothing is kept.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

from harness import clock

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOOP = """
while [ "$(docker inspect --format '{{{{.State.Status}}}}' {id} 2>/dev/null)" = running ]; do
    sleep {pause}
done
echo dead
"""
_EVENTS = "docker events --filter container={id} --filter event=die --format '{{{{.Status}}}}'"
_MONITOR = """
while true; do
    status=$(docker inspect {id} --format '{{{{.State.Status}}}}' 2>/dev/null || echo GONE)
    echo "$(date): Container {id} status: $status"
    [ "$status" != running ] && break
    sleep 0.1
done
"""
# `watch -n 0.5` and `watch -n 0.1` of the guide; the VM's shell is this one.
_RESOURCES = (
    "while :; do docker stats --no-stream; free -h; ps aux | wc -l; sleep 0.5; done",
    "while :; do docker stats --no-stream; sleep 0.1; done",
)
_STREAMS = (
    "docker events --format '{{.Time}} {{.Status}} {{.ID}}'",
    "docker events --filter type=container --format '{{.Time}} {{.Status}} {{.Actor.ID}}'",
    "docker events --format '{{.Time}} {{.Status}} {{.Actor.ID}}'",
    "dmesg -w",
)


def runs() -> bool:
    """Is there a docker client to run the guide with?"""
    return shutil.which("docker") is not None


class Shell:
    """One of the guide's terminals: a shell script in a session of its own."""

    def __init__(self, script: str, host: str, *, read: bool = False) -> None:
        self.popen = subprocess.Popen(
            ("sh", "-c", script),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if read else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "DOCKER_HOST": host},
            start_new_session=True,
        )

    def line(self) -> int:
        """Wait for its next line; the instant it came."""
        assert self.popen.stdout is not None
        self.popen.stdout.readline()
        return clock.now()

    def end(self) -> float:
        """End it; CPU seconds of it and of all its children that it has waited for."""
        try:
            # The shell waits for its command first, and so its children's time is counted.
            os.killpg(self.popen.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass  # it ended by itself
        _, status, used = os.wait4(self.popen.pid, 0)
        self.popen.returncode = os.waitstatus_to_exitcode(status)
        if self.popen.stdout:
            self.popen.stdout.close()
        return used.ru_utime + used.ru_stime


def loop(container: str, host: str, pause: float) -> Shell:
    """`detect_container_death` (pause 0.01) or `monitor_container` (0.1): one line at the end."""
    return Shell(_LOOP.format(id=container, pause=pause), host, read=True)


def die(container: str, host: str) -> Shell:
    """`docker events`, the line of the container's `die`."""
    return Shell(_EVENTS.format(id=container), host, read=True)


def everything(containers: Sequence[str], host: str, log: str) -> list[Shell]:
    """All of the guide's monitors at once, for these containers."""
    scripts = [*_STREAMS, f"tail -f {log}", *_RESOURCES]
    for container in containers:
        scripts.append(_MONITOR.format(id=container))
        scripts.append(_LOOP.format(id=container, pause=0.01))
    return [Shell(script, host) for script in scripts]
