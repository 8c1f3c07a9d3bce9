"""One container, as the user may describe it.

Rule: what is written here is what the engine is asked for; a key left out is left to
the engine. Sizes are bytes, times seconds, None means "no limit" or "not set".
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from harness.model.fields import (
    NONE,
    UNLIMITED,
    Cpus,
    CpuSet,
    InContainer,
    Limit,
    LooseText,
    Memory,
    Name,
    Noun,
    Positive,
    Relative,
    Restart,
    Seconds,
    SignedWhole,
    Size,
    Swap,
    Text,
    Truth,
    VariableName,
    refuse,
)

Propagation = Literal["private", "rprivate", "shared", "rshared", "slave", "rslave"]
Mode = Literal["rw", "ro"]

MAIN = "main"
"""The subject's name inside an experiment: what `beside` containers may share with."""


class ImageSpec(Noun):
    """Where the image comes from: exactly one of the three.

    Attributes:
        rootfs: "busybox" (made from the system's static busybox), or the absolute path of a
            directory or tar archive that holds a root file system.
        ref: An image that the engine has, or can pull.
        build: Absolute path of a directory with a Dockerfile.
    """

    rootfs: Annotated[Text | None, Relative(bare=True, must_exist="any")] = None
    ref: Text | None = None
    build: Annotated[Text | None, Relative(must_exist="directory")] = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [key for key in ("rootfs", "ref", "build") if getattr(self, key) is not None]
        if len(given) != 1:
            raise refuse(
                f"an image comes from one place, here are {len(given)}",
                "one of {rootfs: busybox}, {ref: debian:bookworm-slim}, {build: ./image}",
            )
        return self


class Mount(Noun):
    """A bind mount (`source`) or a named volume (`volume`); exactly one of them.

    Attributes:
        source: Absolute path on the machine; made as a directory when it is missing.
        volume: Name of a volume; made for the trial.
        target: Where it appears in the container.
    """

    source: Annotated[Text | None, Relative()] = None
    volume: Name | None = None
    target: InContainer
    mode: Mode = "rw"
    propagation: Propagation | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.source is None) == (self.volume is None):
            raise refuse(
                "a mount shows one thing: a path of the machine or a volume",
                "either source: ./work or volume: data",
            )
        if self.volume is not None and self.propagation is not None:
            raise refuse(
                "docker knows propagation only for bind mounts",
                "leave it out, or use source:",
                "propagation",
            )
        return self


class Ulimit(Noun):
    """A resource limit, in the kernel's unit: bytes, seconds or a count. `hard` None: the same as `soft`."""

    sugar: ClassVar[str | None] = "soft"

    soft: Limit
    hard: Limit | None = None

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.hard is not None and self.hard < self.soft:
            raise refuse("the soft limit can not exceed the hard one", "hard: at least soft")
        return self


class Tmpfs(Noun):
    """A file system in memory. `size` None: half of the machine's memory, as the kernel does."""

    sugar: ClassVar[str | None] = "size"

    size: Annotated[Size | None, NONE] = None
    mode: Mode = "rw"


UlimitName = Literal[
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
    "rss", "rtprio", "rttime", "sigpending", "stack",
]  # fmt: skip


class ContainerSpec(Noun):
    """A container and its limits.

    Attributes:
        name: Within the experiment, for `beside`; the subject's is "main".
        image: Where its file system comes from.
        command: argv of the main process; empty: what the image says.
        entrypoint: Overrides the image's; None: what the image says.
        memory: Limit in bytes; None: none.
        memory_swap: Memory and swap together, as docker has it; -1: unlimited; None: docker's
            default.
        cpus: Quota in CPUs; None: none.
        pids: Most processes and threads; None: none.
        network: bridge | none | host | container:NAME (of this experiment) | any other word:
            a network made for the trial.
        pid: None (its own) | host | container:NAME; the PID namespace. `ipc` likewise.
        stop_timeout: Seconds between SIGTERM and SIGKILL.
    """

    name: Name | None = None
    image: ImageSpec
    command: tuple[LooseText, ...] = ()
    entrypoint: tuple[LooseText, ...] | None = None
    memory: Annotated[Memory | None, NONE] = None
    memory_swap: Annotated[Swap | None, NONE] = None
    memory_reservation: Annotated[Memory | None, NONE] = None
    oom_kill_disable: Truth = False
    oom_score_adj: SignedWhole | None = None
    cpus: Annotated[Cpus | None, NONE] = None
    cpu_shares: Annotated[Positive | None, NONE] = None
    cpuset: Annotated[CpuSet | None, NONE] = None
    pids: Annotated[Positive | None, NONE] = None
    ulimits: dict[UlimitName, Ulimit] = Field(default_factory=dict)
    tmpfs: dict[InContainer, Tmpfs] = Field(default_factory=dict)
    shm_size: Annotated[Size | None, NONE] = None
    init: Truth = False
    restart: Restart = "no"
    user: LooseText | None = None
    workdir: InContainer | None = None
    env: dict[VariableName, LooseText] = Field(default_factory=dict)
    network: Text = "bridge"
    pid: Text | None = None
    ipc: Text | None = None
    security_opt: tuple[Text, ...] = ()
    cap_add: tuple[Text, ...] = ()
    cap_drop: tuple[Text, ...] = ()
    privileged: Truth = False
    read_only: Truth = False
    cgroup_parent: Text | None = None
    hostname: Name | None = None
    stop_timeout: Seconds | None = None
    stop_signal: Text | None = None
    labels: dict[Text, LooseText] = Field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.memory_swap is not None and self.memory is None:
            raise refuse(
                "docker takes memory_swap only together with memory",
                "add memory:, or leave memory_swap out",
                "memory_swap",
            )
        if self.memory_swap is not None and UNLIMITED < self.memory_swap < (self.memory or 0):
            raise refuse(
                "memory_swap is memory and swap together, so at least memory",
                "memory_swap: at least memory",
                "memory_swap",
            )
        if self.memory_reservation and self.memory and self.memory_reservation > self.memory:
            raise refuse(
                "a reservation above the limit is refused by docker",
                "memory_reservation: at most memory",
                "memory_reservation",
            )
        if self.oom_kill_disable and self.memory is None:
            raise refuse(
                "without a limit of its own, the kernel would kill everything else instead",
                "add memory:, or leave oom_kill_disable out",
                "oom_kill_disable",
            )
        targets = [mount.target for mount in self.mounts]
        for index, target in enumerate(targets):
            if target in targets[:index] or target in self.tmpfs:
                raise refuse(
                    "two mounts at one place hide each other",
                    "another target",
                    f"mounts.{index}.target",
                )
        return self

    def shares_with(self) -> tuple[tuple[str, str], ...]:
        """(key, name of another container) for each namespace taken from a neighbour."""
        found = []
        for key in ("network", "pid", "ipc"):
            value = getattr(self, key)
            if value is not None and value.startswith("container:"):
                found.append((key, value.partition(":")[2]))
        return tuple(found)
