"""Neighbours: containers on the same machine that are not asked about.

Rule: they are made before the trials that want them and stay as long as the number fits,
so that starting and stopping them is no part of any trial.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Self

from harness import images
from harness.model.container import ImageSpec

if TYPE_CHECKING:
    from types import TracebackType

    from harness.engine import Engine
    from harness.machine import Machine
    from harness.model.sweep import Neighbours

IDLE = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done")
# A third of a processor and 8 MiB that are touched again and again.
BUSY = (
    "sh",
    "-c",
    "trap 'exit 0' TERM; while :; do dd if=/dev/zero of=/dev/null bs=8M count=40 2>/dev/null; sleep 0.2; done",
)
# It lasts beyond the ten seconds after which the engine forgets how often it had to start it.
DYING = ("sh", "-c", "sleep {seconds}; exit 1")
RESTLESS = ("sh", "-c", "while :; do :; done")


class Bystanders:
    """So many of them as the next trial wants. Use as a context: leaving removes all."""

    def __init__(self, engine: Engine, machine: Machine, wanted: Neighbours) -> None:
        self._engine, self._machine = engine, machine
        self._made: list[str] = []
        self._kind = (wanted.busy, wanted.dying)
        self._first = wanted

    def __enter__(self) -> Self:
        self.want(self._first)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shrink(0)

    def want(self, wanted: Neighbours) -> None:
        """Make or remove until there are so many of the kind that is wanted.

        Raises:
            EnvironmentInvalid: the engine refuses one.
        """
        if (wanted.busy, wanted.dying) != self._kind:
            self._shrink(0)
            self._kind = (wanted.busy, wanted.dying)
        self._shrink(wanted.count)
        if len(self._made) < wanted.count:
            tag = images.ensure(self._engine, ImageSpec(rootfs="busybox"), machine=self._machine)
            while len(self._made) < wanted.count:
                self._made.append(self._one(tag))

    def _command(self, place: int) -> tuple[str, ...]:
        """What the one at this place runs."""
        busy, dying = self._kind
        if dying and place < (os.cpu_count() or 1):
            return RESTLESS
        if dying:
            # Each at a time of its own: never all at once.
            return tuple(word.format(seconds=11 + place % 7) for word in DYING)
        return BUSY if busy else IDLE

    def _one(self, tag: str) -> str:
        policy = "always" if self._kind[1] else "no"
        body = {
            "Image": tag,
            "Cmd": list(self._command(len(self._made))),
            "Labels": {"deathbench": "neighbour", "deathbench.owner": self._machine.name},
            "HostConfig": {"NetworkMode": "none", "RestartPolicy": {"Name": policy}},
        }
        name = f"deathbench-neighbour-{secrets.token_hex(3)}"
        identity = self._engine.create(name, body).need("making a neighbour")
        self._engine.start(identity).need("starting a neighbour")
        return identity

    def _shrink(self, count: int) -> None:
        while len(self._made) > count:
            answer = self._engine.remove(self._made.pop(), force=True)
            # An engine that is gone takes its containers with it; any other refusal is
            # the next machine's `clean` to find, by the label.
            if answer.absent:
                self._made.clear()
