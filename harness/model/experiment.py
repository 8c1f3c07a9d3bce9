"""The nouns of an experiment and of its trials, frozen.

Rule: these are values. They come out of `spec` complete (scripts read, paths absolute,
quantities plain numbers) and nothing behind `spec` ever sees YAML. Keys are the ones
the user writes, so a message can name them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping  # noqa: TC003 - read at run time
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from harness.model.causes import CAUSES
from harness.model.container import (
    MAIN,
    ContainerSpec,
    ImageSpec,
    Mode,
    Mount,
    Propagation,
    Tmpfs,
    Ulimit,
)
from harness.model.fields import (
    InContainer,
    Lag,
    LooseText,
    Name,
    Noun,
    Relative,
    Seconds,
    Text,
    Timeout,
    Truth,
    VariableName,
    refuse,
)
from harness.model.injection import ACTIONS, Injection, Phase
from harness.model.sweep import (
    MOST_CELLS,
    MachineSpec,
    Matrix,
    Neighbours,
    Order,
    Stop,
    Trials,
)

__all__ = [
    "ACTIONS",
    "MAIN",
    "MOST_CELLS",
    "ContainerSpec",
    "Deadlines",
    "Delay",
    "Expect",
    "Experiment",
    "HostScript",
    "ImageSpec",
    "Injection",
    "MachineSpec",
    "Matrix",
    "Mount",
    "Neighbours",
    "Order",
    "Phase",
    "Remount",
    "Script",
    "Stop",
    "Tmpfs",
    "TrialSpec",
    "Trials",
    "Ulimit",
]


class Script(Noun):
    """A script run at one step of a trial, by /bin/sh -c TEXT NAME ARGS….

    Attributes:
        script: Absolute path of the file it was read from, for messages; None for inline.
        run: The text, read when the experiment was loaded: the campaign is frozen.
        args: $1, $2, …
        on: In the container, or on the host as the harness.
        timeout: Seconds, then the script is given up.
        user, workdir: In the container; None: the container's.
    """

    script: Annotated[Text | None, Relative(must_exist="file")] = None
    run: Annotated[str | None, Field(min_length=1)] = None
    args: tuple[LooseText, ...] = ()
    env: dict[VariableName, LooseText] = Field(default_factory=dict)
    on: Literal["container", "host"] = "container"
    timeout: Timeout = 60.0
    user: LooseText | None = None
    workdir: InContainer | None = None

    @property
    def text(self) -> str:
        """What the shell is given."""
        return self.run or ""

    @property
    def path(self) -> str | None:
        """The file it came from."""
        return self.script

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.run is None:
            raise refuse("nothing to run", "script: FILE, or run: the commands themselves")
        if self.on == "host" and self.user is not None:
            raise refuse("on the host it runs as the harness does", "leave user out", "user")
        return self


class HostScript(Script):
    """A hook before or after a trial, when there is no container: always on the host."""

    on: Literal["host"] = "host"


class Remount(Noun):
    """How the mounts change.

    Attributes:
        how: none: they do not. restart: stop and start. recreate: remove and create anew with
            the mount changed. in-place: `mount -o remount` in the container's mount namespace.
            propagate: a bind changed on the machine's side under a shared mount; the mount gets
            propagation rslave unless the experiment says otherwise.
        target: Which mount; a new one when `source` is given too.
        mode: What it becomes.
        source: Another source for it; None: the same.
        stop_timeout: Seconds that recreate and restart give the main process; None: docker's.
    """

    sugar: ClassVar[str | None] = "how"

    how: Literal["none", "restart", "recreate", "in-place", "propagate"] = "none"
    target: InContainer | None = None
    mode: Mode | None = None
    source: Annotated[Text | None, Relative()] = None
    propagation: Propagation | None = None
    stop_timeout: Seconds | None = None

    @model_validator(mode="after")
    def _target(self) -> Self:
        needs = self.how in {"in-place", "propagate"} or self.mode or self.source
        if needs and self.target is None:
            raise refuse("it does not say which mount changes", "add target: /path/in/container")
        if self.how == "in-place" and self.mode is None and self.source is None:
            raise refuse("it does not say what changes", "add mode: ro, mode: rw, or a source:")
        return self


class Delay(Noun):
    """When the pre-task's exec is requested.

    Attributes:
        after: The zero: the remount's end, or its start (then the two overlap).
        seconds: From that zero; negative means before it.
    """

    sugar: ClassVar[str | None] = "for"

    after: Literal["remount-end", "remount-start"] = "remount-end"
    seconds: Annotated[Lag, Field(alias="for")] = 0.0


class Deadlines(Noun):
    """Seconds after which a step is given up. Scripts have a `timeout` of their own."""

    create: Timeout = 60.0
    start: Timeout = 60.0
    remount: Timeout = 90.0
    post_mortem: Timeout = 20.0
    clean: Timeout = 60.0
    trial: Timeout = 600.0


class Expect(Noun):
    """What the experiment is known to come to, where it is: `selftest` holds verdicts to it.

    The judge never sees it. cause: an id of `model.causes`; several where more than one answer
    is right; none for a trial that survives. on: the machine that it needs, where any pen is
    not enough.
    """

    outcome: Literal["survived", "died", "exec-failed"]
    cause: tuple[Text, ...] = ()
    on: MachineSpec | None = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        for index, name in enumerate(self.cause):
            if name not in CAUSES:
                near = difflib.get_close_matches(name, CAUSES, n=1)
                hint = f"did you mean {near[0]}?" if near else "one of the causes in the docs"
                raise refuse("no such cause", hint, f"cause.{index}")
        if (self.outcome == "survived") == bool(self.cause):
            raise refuse(
                "a trial that survives has no cause, every other one has",
                "cause: [ID], or outcome: survived without one",
                "cause",
            )
        return self


class Experiment(Noun):
    """One experiment file.

    Attributes:
        container: The subject, whose death is asked about.
        beside: Other containers of the trial, started before the subject unless they share
            one of its namespaces.
        linger: Seconds to keep watching after the pre-task.
        before_trial, after_trial: Hooks on the host.
        inject: Failures on request.
        expect: What it is known to come to, for `selftest`.
        own: The user says: an engine that the harness did not start may be broken too.
    """

    name: Name
    about: Text | None = None
    container: ContainerSpec
    beside: tuple[ContainerSpec, ...] = ()
    setup: Script | None = None
    remount: Remount = Remount()
    delay: Delay = Delay()
    pre_task: Script
    linger: Seconds = 2.0
    before_trial: HostScript | None = None
    after_trial: HostScript | None = None
    inject: tuple[Injection, ...] = ()
    own: Truth = False
    expect: Expect | None = None
    deadlines: Deadlines = Deadlines()

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [MAIN]
        if self.container.name not in {None, MAIN}:
            raise refuse(
                f"the subject is called {MAIN} by everything that shares with it",
                "leave the name out",
                "container.name",
            )
        for index, other in enumerate(self.beside):
            if other.name is None or other.name in names:
                raise refuse(
                    "each container beside the subject has a name of its own",
                    "name: sidecar",
                    f"beside.{index}.name",
                )
            names.append(other.name)
        places = [("container", self.container)]
        places += [(f"beside.{index}", other) for index, other in enumerate(self.beside)]
        for place, spec in places:
            for key, name in spec.shares_with():
                if name not in names or name == (spec.name or MAIN):
                    raise refuse(
                        "no other container of this experiment has that name",
                        f"container:NAME with one of {', '.join(names)}",
                        f"{place}.{key}",
                    )
        if self.container.shares_with() and any(
            name == names[0] for other in self.beside for _, name in other.shares_with()
        ):
            raise refuse(
                "two containers that wait for each other's namespaces never start",
                "let only one of them share",
                "beside",
            )
        for index, injection in enumerate(self.inject):
            if injection.container is not None and injection.container not in names:
                raise refuse(
                    "no container of this experiment has that name",
                    f"one of {', '.join(names)}",
                    f"inject.{index}.container",
                )
        return self

    @model_validator(mode="after")
    def _remount_fits(self) -> Self:
        mounts = {mount.target: mount for mount in self.container.mounts}
        remount = self.remount
        if remount.how == "none" or remount.target is None:
            return self
        known = remount.target in mounts or remount.target in self.container.tmpfs
        if not known and (remount.source is None or remount.how in {"in-place", "propagate"}):
            there = ", ".join([*mounts, *self.container.tmpfs]) or "none"
            raise refuse(
                f"the container has no mount there (its mounts: {there})",
                "the target of one of container.mounts",
                "remount.target",
            )
        if remount.how == "propagate":
            mount = mounts.get(remount.target)
            heard = {"shared", "rshared", "slave", "rslave", None}
            if mount is None or mount.source is None or mount.propagation not in heard:
                raise refuse(
                    "only a bind mount that is not private hears of changes on the machine's side",
                    f"source: and propagation: rslave on the mount at {remount.target}",
                    "remount.how",
                )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSpec:
    """One trial, complete: everything that is needed to run it, here or elsewhere.

    Attributes:
        trial: "<cell>/<n>".
        cell: Short, stable, usable as a directory name.
        n: 1, 2, … within the cell; warm-up trials count by themselves.
        config: Axis → plain value: bytes, seconds, numbers, text, None.
        seed: The trial's own.
        block: Which stay on a machine it belongs to; the machine restarts between blocks.
        warm_up: Not counted.
    """

    trial: str
    cell: str
    n: int
    config: Mapping[str, Any]
    experiment: Experiment
    machine: MachineSpec
    seed: int
    block: int
    warm_up: bool
    neighbours: Neighbours
