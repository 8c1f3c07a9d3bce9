"""A failure that an experiment asks for: when, what, and with which settings.

Rule: here is only what may be asked; the room `inject` does it. `ACTIONS` is the closed
list: each action with the settings it needs and the ones it takes.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from harness.model.fields import (
    InContainer,
    Name,
    Noun,
    Offset,
    Positive,
    Seconds,
    Size,
    Text,
    refuse,
)

Phase = Literal["create", "start", "setup", "remount", "delay", "pre-task", "linger"]


class Action(NamedTuple):
    """Which settings an action must and may have, and what it does."""

    needs: frozenset[str]
    takes: frozenset[str]
    about: str


def _action(about: str, needs: str = "", takes: str = "") -> Action:
    return Action(frozenset(needs.split()), frozenset(takes.split()), about)


ACTIONS: dict[str, Action] = {
    "signal": _action(
        "a signal to the main process, from the host, a sibling container or inside",
        takes="signal sender container",
    ),
    "docker-kill": _action("docker kill by another client", takes="signal container"),
    "docker-stop": _action("docker stop by another client", takes="seconds container"),
    "docker-rm": _action("docker rm -f by another client", takes="container"),
    "docker-pause": _action("docker pause; unpaused after seconds", takes="seconds container"),
    "docker-restart": _action("docker restart by another client", takes="seconds container"),
    "docker-update": _action("another memory limit by another client", "size", "container"),
    "network-disconnect": _action("the container is taken off its network", takes="container"),
    "delete-veth": _action("the container's network link is deleted", takes="container"),
    "dockerd-kill": _action("SIGKILL for dockerd; started again after seconds", takes="seconds"),
    "dockerd-stop": _action("SIGTERM for dockerd; started again after seconds", takes="seconds"),
    "dockerd-hang": _action("dockerd is frozen for seconds", "seconds"),
    "dockerd-restart": _action("dockerd is stopped in order and started again"),
    "containerd-kill": _action("SIGKILL for containerd; again after seconds", takes="seconds"),
    "containerd-stop": _action("SIGTERM for containerd; again after seconds", takes="seconds"),
    "containerd-hang": _action("containerd is frozen for seconds", "seconds"),
    "containerd-restart": _action("containerd is stopped in order and started again"),
    "shim-kill": _action("SIGKILL for the container's shim", takes="container"),
    "shim-hang": _action("the container's shim is frozen for seconds", "seconds", "container"),
    "fill-disk": _action("the machine's disk is filled, to `free` left", takes="free seconds"),
    "fill-inodes": _action("the machine's disk runs out of inodes", takes="seconds"),
    "fill-tmpfs": _action("the tmpfs at target is filled", "target", "container"),
    "unmount": _action("the mount at target is taken away", "target", "container"),
    "unmount-lazy": _action("the mount at target is detached", "target", "container"),
    "remount-read-only": _action("the mount at target turns read-only", "target", "container"),
    "delete-source": _action("the source of the bind at target is deleted", "target", "container"),
    "replace-source": _action("… is replaced by another directory", "target", "container"),
    "freeze": _action("the container's cgroup is frozen for seconds", "seconds", "container"),
    "memory-hog": _action(
        "size bytes are taken by a child, a sibling, in the parent cgroup or on the machine",
        "where size",
        "seconds container",
    ),
    "cpu-hog": _action("count busy loops", "where", "count seconds container"),
    "pids-exhaustion": _action("processes until no more can be made", "where", "seconds container"),
    "files-exhaustion": _action(
        "open files until no more can be had", "where", "seconds container"
    ),
    "clock-step": _action("the machine's wall clock jumps by `step` (vm only)", "step"),
    "power-cut": _action("the machine loses its power (vm only)"),
    "suspend": _action("the machine stands still for seconds (vm only)", "seconds"),
    "command": _action("a command as root on the machine", "run", "seconds"),
}

SETTINGS = (
    "signal", "sender", "container", "seconds", "size", "free", "target", "where", "count",
    "step", "run",
)  # fmt: skip


class Injection(Noun):
    """One failure on request.

    Attributes:
        at: The phase whose beginning is the zero of `after`.
        after: Seconds after that beginning; None counts as 0.
        what: A key of ACTIONS.
        signal: Name ("KILL", "SIGTERM") or number as text.
        sender: Where the signal comes from.
        container: Whom it hits, by the name in the experiment; the subject when left out.
        seconds: How long it lasts, or how long until what was stopped is started again.
        size: Bytes. `free`: bytes left free.
        where: In whose name the load runs.
        step: Seconds the clock jumps, may be negative.
        run: argv of a command.
    """

    at: Phase
    after: Seconds = 0.0
    what: Literal[
        "signal", "docker-kill", "docker-stop", "docker-rm", "docker-pause", "docker-restart",
        "docker-update", "network-disconnect", "delete-veth", "dockerd-kill", "dockerd-stop",
        "dockerd-hang", "dockerd-restart", "containerd-kill", "containerd-stop",
        "containerd-hang", "containerd-restart", "shim-kill", "shim-hang", "fill-disk",
        "fill-inodes", "fill-tmpfs", "unmount", "unmount-lazy", "remount-read-only",
        "delete-source", "replace-source", "freeze", "memory-hog", "cpu-hog",
        "pids-exhaustion", "files-exhaustion", "clock-step", "power-cut", "suspend", "command",
    ]  # fmt: skip
    signal: Annotated[Text | None, Field(pattern=r"^(SIG)?[A-Z0-9+]+$")] = None
    sender: Literal["host", "sibling", "inside"] | None = None
    container: Name | None = None
    seconds: Annotated[Seconds | None, Field(alias="for")] = None
    size: Size | None = None
    free: Size | None = None
    target: InContainer | None = None
    where: Literal["child", "sibling", "parent", "machine"] | None = None
    count: Positive | None = None
    step: Offset | None = None
    run: tuple[Text, ...] | None = None

    @model_validator(mode="after")
    def _settings(self) -> Self:
        action = ACTIONS[self.what]
        for key in SETTINGS:
            word = "for" if key == "seconds" else key
            given = getattr(self, key) is not None
            if key in action.needs and not given:
                raise refuse(f"{self.what} needs {word}", f"add {word}:")
            if given and key not in action.needs | action.takes:
                takes = ", ".join(sorted(action.needs | action.takes)) or "no setting at all"
                raise refuse(f"{self.what} takes {takes}", f"leave {word} out", word)
        return self
