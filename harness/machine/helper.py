"""A privileged container that stands in for the machine where we can not be root.

Rule: it shares the host's PID and network namespaces and sees its control groups, its
tracing file system and the engine's directory; it does nothing but wait. It is ours by its
label, and goes with its machine.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from harness import process
from harness.machine import LABEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.engine import Engine

IMAGE_VARIABLE = "DEATHBENCH_HELPER_IMAGE"
_LIKELY = ("python:3-alpine", "python:3-slim", "python:3")

# What "privileged" gives that is needed, for engines that may not give all of it.
_CAPABILITIES = (
    "SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN", "DAC_READ_SEARCH", "DAC_OVERRIDE", "SYSLOG", "KILL",
    "SYS_CHROOT",
)  # fmt: skip


class Helper:
    """One helper container on one engine."""

    def __init__(self, engine: Engine, owner: str, docker_root: str) -> None:
        self._engine, self._owner, self._docker_root = engine, owner, docker_root
        self.container: str | None = None

    def start(self) -> str:
        """Why it can not be had; "" when it stands."""
        image, why = self._image()
        if image is None:
            return why
        for privileged in (True, False):
            why = self._try(image, privileged=privileged)
            if not why:
                return ""
        return why

    def _image(self) -> tuple[str | None, str]:
        named = os.environ.get(IMAGE_VARIABLE)
        if named:
            found = self._engine.image(named)
            return (named, "") if found.ok else (None, f"{IMAGE_VARIABLE}={named}: {found.failure}")
        listed = self._engine.ask(lambda sdk: list(sdk.images()), name="images")
        tags = [t for i in listed.value or [] for t in i.get("RepoTags") or []]
        for tag in tags:
            name = tag.rpartition(":")[0].rpartition("/")[2]
            if name == "python" and not tag.rpartition(":")[2].startswith("2"):
                return tag, ""
        for tag in _LIKELY[:1]:
            if self._engine.pull(tag, deadline=120).ok:
                return tag, ""
        return None, (
            f"the engine has no image with python3, and {_LIKELY[0]} can not be pulled"
            f" (name one with {IMAGE_VARIABLE})"
        )

    def _try(self, image: str, *, privileged: bool) -> str:
        tracing = "/sys/kernel/tracing"
        host: dict[str, Any] = {
            "Privileged": privileged,
            "PidMode": "host",
            "NetworkMode": "host",
            "CgroupnsMode": "host",
            "Binds": [
                "/sys/fs/cgroup:/sys/fs/cgroup",
                f"{tracing}:{tracing}",
                "/var/run/docker.sock:/var/run/docker.sock",
                f"{self._docker_root}:{self._docker_root}:ro",
            ],
        }
        if not privileged:
            host["CapAdd"] = list(_CAPABILITIES)
            host["SecurityOpt"] = ["seccomp=unconfined", "apparmor=unconfined"]
            host["Devices"] = [
                {
                    "PathOnHost": "/dev/kmsg",
                    "PathInContainer": "/dev/kmsg",
                    "CgroupPermissions": "rw",
                }
            ]
        body = {
            "Image": image,
            "Entrypoint": ["python3", "-c", "import time\nwhile 1: time.sleep(3600)"],
            "Cmd": [],
            "Labels": {LABEL: "helper", f"{LABEL}.owner": self._owner},
            "HostConfig": host,
        }
        made = self._engine.create(f"{LABEL}-{self._owner}-helper", body)
        if made.value is None:
            return str(made.failure)
        self.container = made.value
        begun = self._engine.start(made.value)
        if begun.failure is not None:
            self.stop()
            return str(begun.failure)
        return ""

    def stop(self) -> None:
        if self.container is not None:
            self._engine.remove(self.container)
            self.container = None

    def config(self) -> dict[str, Any]:
        """What differs from a probe beside the engine: no journal reaches into a container."""
        return {
            "docker_socket": "/var/run/docker.sock",
            "journal": False,
            "roots": [self._docker_root],
        }

    def python(self, docker_host: str) -> tuple[str, ...]:
        """argv that runs python3 in the helper with pipes."""
        return (*self._exec(docker_host), "python3")

    def root(
        self, docker_host: str, argv: Sequence[str], *, stdin: bytes, deadline: float
    ) -> process.Result:
        """Root of the engine's own kernel: into the namespaces of its first process."""
        inside = ("nsenter", "--target", "1", "-m", "-u", "-i", "-n", "--")
        return process.run(
            (*self._exec(docker_host), *inside, *argv), stdin=stdin, deadline=deadline
        )

    def _exec(self, docker_host: str) -> tuple[str, ...]:
        docker = process.which("docker")
        container = self.container or ""
        if docker:
            return (docker, "-H", docker_host, "exec", "-i", container)
        return (sys.executable, "-m", "harness.engine.pipe", docker_host, container)
