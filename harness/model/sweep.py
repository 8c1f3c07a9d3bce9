"""What a matrix file may say: the machine, how many trials, how to stop, in which order.

Rule: nouns only. Which cells come of it and in which order is decided in `matrix`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from harness.model.fields import (
    NONE,
    Cpus,
    Crowd,
    Memory,
    Name,
    Natural,
    Noun,
    Positive,
    Probability,
    Rate,
    Relative,
    Seconds,
    Size,
    Text,
    Truth,
    refuse,
)

MOST_CELLS = 2000

Tolerated = Literal[
    "any", "container-resources", "daemon", "vm-pressure", "process-exit", "network-storage",
    "race", "external", "unknown",
]  # fmt: skip
"""The hypotheses by id (a StrEnum's members are equal to them), and "any" for every death."""


class MachineSpec(Noun):
    """Where the trials run. None: what the machine has by itself.

    Attributes:
        kind: auto takes colima where it is installed, else a pen, else the host's engine.
        memory: Bytes for everything, engine included.
        disk: Bytes of the engine's disk.
        inodes: Of that disk.
        user: Whom colima runs as when the harness is root.
        own: The user says: this machine is mine, stop it, change it, break it.
        live_restore: dockerd leaves containers running while it is down (pen, vm).
        cgroup: Version of control groups in the guest (vm).
        context: Of `host`: a docker context or a URL such as unix:///run/docker.sock.
        profile, vm_type, mount_type, mounts, disk_image, arch, flags: colima's own choices.
    """

    sugar: ClassVar[str | None] = "kind"

    kind: Literal["auto", "colima", "pen", "host", "vm"] = "auto"
    cpus: Annotated[Cpus | None, NONE] = None
    memory: Annotated[Memory | None, NONE] = None
    disk: Annotated[Size | None, NONE] = None
    inodes: Annotated[Positive | None, NONE] = None
    user: Text | None = None
    own: Truth = False
    live_restore: Truth = False
    cgroup: Literal[1, 2] | None = None
    context: Text | None = None
    profile: Name | None = None
    vm_type: Literal["qemu", "vz", "krunkit"] | None = None
    mount_type: Literal["9p", "sshfs", "virtiofs"] | None = None
    mounts: tuple[Annotated[Text, Relative()], ...] = ()
    disk_image: Annotated[Text | None, Relative(must_exist="file")] = None
    arch: Literal["x86_64", "aarch64", "host"] | None = None
    flags: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _kind_has_it(self) -> Self:
        given = {
            key for key in self.model_fields_set if getattr(self, key) not in (None, (), False)
        }
        colima = {"profile", "vm_type", "mount_type", "mounts", "disk_image", "arch", "flags"}
        sizes = {"cpus", "memory", "disk", "inodes"}
        match self.kind:
            case "auto":
                foreign, reason = set[str](), ""
            case "colima":
                foreign, reason = (
                    {"inodes", "context", "live_restore", "cgroup"},
                    "colima has no such setting",
                )
            case "pen":
                foreign, reason = colima | {"context", "cgroup"}, "a pen has no such setting"
            case "vm":
                foreign, reason = colima | {"context"}, "a vm has no such setting"
            case "host":
                foreign = colima | sizes | {"live_restore", "cgroup"}
                reason = "the harness does not change an engine it did not make"
        if "mount_type" in given and not self.mounts and self.profile is None:
            raise refuse(
                "nothing of the host is mounted into the VM, so there is nothing to be of this type",
                "mounts: [DIRECTORY], or leave mount_type out",
                "mount_type",
            )
        for key in sorted(given & foreign):
            fix = "leave it out, or use kind: pen, vm or colima"
            raise refuse(reason, fix, key)
        return self


class Stop(Noun):
    """A cell stops as soon as its rate is surely below or surely above.

    Attributes:
        alpha: Chance of a wrong decision, on either side.
        below, above: Rates 0 to 1; one of the two may be left out.
    """

    alpha: Probability = 0.05
    below: Rate | None = None
    above: Rate | None = None

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.below is None and self.above is None:
            raise refuse("nothing to decide between", "below: 1%, above: 10%, or one of them")
        if self.below is not None and self.above is not None and self.below >= self.above:
            raise refuse(
                "between the two rates lies what nobody needs to know, so below < above",
                "such as below: 1%, above: 10%",
            )
        return self


class Trials(Noun):
    """How many trials a cell gets at most, and when it has had enough."""

    sugar: ClassVar[str | None] = "max"

    max: Positive = 10
    stop: Annotated[Stop | None, NONE] = None


class Neighbours(Noun):
    """Bystander containers on the same machine.

    Attributes:
        busy: They use a CPU and some memory.
        dying: They end every ten seconds or so and are started again; the first ones, one
            for each processor, never rest.
    """

    sugar: ClassVar[str | None] = "count"

    count: Crowd = 0
    busy: Truth = False
    dying: Truth = False


class Order(Noun):
    """Which trial comes when.

    Attributes:
        by: blocks puts machine restarts outside and shuffles inside each block; shuffled
            shuffles everything; listed keeps the order of the file.
        seed: None: the campaign's.
    """

    by: Literal["blocks", "shuffled", "listed"] = "blocks"
    seed: Natural | None = None


class Matrix(Noun):
    """One matrix file, its axes not yet multiplied.

    Attributes:
        axes: Dotted key → values as they stand in the file, ranges written out.
        exclude, include: Patterns: dotted key → value.
        control: Dotted key → value, all axes: a cell that is known to die in about half of its
            trials. It is run in every round until the others have had enough, shows whether
            the machine drifts, and counts against no tolerance.
        tolerance: Hypothesis, or "any" → rate 0 to 1.
        budget: Seconds for the whole sweep; None: until it is done.
        max_cells: More cells than this are an error.
        share_machine: Several trials may run at once on one machine.
        keep: How many nights a nightly campaign keeps whole.
    """

    name: Name
    about: Text | None = None
    experiment: Any = None
    machine: MachineSpec = MachineSpec()
    axes: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    exclude: tuple[dict[str, Any], ...] = ()
    include: tuple[dict[str, Any], ...] = ()
    control: dict[str, Any] | None = None
    trials: Trials = Trials()
    neighbours: Neighbours = Neighbours()
    warm_up: Natural = 0
    order: Order = Order()
    tolerance: dict[Tolerated, Rate] = Field(default_factory=dict)
    budget: Annotated[Seconds | None, NONE] = None
    monitors: Literal["off", "light", "full"] = "light"
    share_machine: Truth = False
    max_cells: Positive = MOST_CELLS
    keep: Annotated[Positive | None, NONE] = None
