"""What one trial came to: outcome, death, verdict and the grade of its evidence.

Shapes follow the `trial` and `verdict` documents that `--json` prints; times
inside are integer nanoseconds of the machine's CLOCK_BOOTTIME, times in
documents are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Hypothesis(StrEnum):
    """Why a container died, coarsely. The order is the guide's priority order."""

    CONTAINER_RESOURCES = "container-resources"
    DAEMON = "daemon"
    VM_PRESSURE = "vm-pressure"
    PROCESS_EXIT = "process-exit"
    NETWORK_STORAGE = "network-storage"
    RACE = "race"
    EXTERNAL = "external"
    UNKNOWN = "unknown"

    @property
    def short(self) -> str:
        """The name in table headers."""
        return _SHORT[self]


_SHORT = {
    Hypothesis.CONTAINER_RESOURCES: "ctr-limit",
    Hypothesis.DAEMON: "daemon",
    Hypothesis.VM_PRESSURE: "vm",
    Hypothesis.PROCESS_EXIT: "exit",
    Hypothesis.NETWORK_STORAGE: "net/disk",
    Hypothesis.RACE: "race",
    Hypothesis.EXTERNAL: "external",
    Hypothesis.UNKNOWN: "unknown",
}


class Outcome(StrEnum):
    """What a trial counts as."""

    SURVIVED = "survived"
    DIED = "died"
    EXEC_FAILED = "exec-failed"
    UNOBSERVED = "unobserved"
    INVALID = "invalid"


class Certainty(StrEnum):
    """How sure a verdict is: two independent citations for `certain`."""

    CERTAIN = "certain"
    LIKELY = "likely"
    UNKNOWN = "unknown"


class SenderKind(StrEnum):
    """Who sent the signal that ended the main process."""

    KERNEL_CONTAINER_LIMIT = "kernel: the container's own memory limit"
    KERNEL_ANCESTOR_LIMIT = "kernel: a memory limit above the container"
    KERNEL_MACHINE = "kernel: the machine ran out of memory"
    KERNEL = "kernel"
    INSIDE = "a process inside the container"
    OTHER_CONTAINER = "a process in another container"
    API = "the engine, on an API request"
    ENGINE = "the engine, of its own accord"
    HOST_PROCESS = "a process of the machine"


@dataclass(frozen=True, slots=True)
class Sender:
    """The sender of a deadly signal. pid is the kernel's; name is what it called itself."""

    kind: SenderKind
    pid: int | None = None
    name: str | None = None

    def document(self) -> dict[str, Any]:
        return {"kind": self.kind.value, "pid": self.pid, "name": self.name}


@dataclass(frozen=True, slots=True)
class Rejected:
    """A cause that was considered and is not it, and why."""

    cause: str
    why: str


IN_PART = "in part: "
"""Begins the `why` of a span in which a source saw, but not all that it is there for."""


@dataclass(frozen=True, slots=True)
class Blind:
    """A span in which a source could not see. `end` None: until the trial's end."""

    source: str
    begin: int
    end: int | None
    why: str


@dataclass(frozen=True, slots=True)
class Grade:
    """Which sources saw this trial, and which were blind for how long."""

    saw: tuple[str, ...] = ()
    blind: tuple[Blind, ...] = ()

    def document(self) -> dict[str, Any]:
        return {
            "saw": list(self.saw),
            "blind": [
                {
                    "source": b.source,
                    "from": b.begin / 1e9,
                    "to": None if b.end is None else b.end / 1e9,
                    "why": b.why,
                }
                for b in self.blind
            ],
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a trial died or its exec failed.

    Attributes:
        hypothesis: One of the closed list.
        cause: An id of `model.causes.CAUSES`.
        certainty: `certain` needs two independent citations.
        path: Root cause first, mechanism last, e.g.
            ("memory-limit-child", "main-exited"). Never empty.
        sender: Who sent the deadly signal; None when no signal did it.
        cites: Event numbers in the trial's stored history.
        rejected: Look-alikes that were considered, and why not.
        runner_up: The cause that would be next, or None.
        grade: What was seen and what was not.
        sentence: One sentence for a bug report.
    """

    hypothesis: Hypothesis
    cause: str
    certainty: Certainty
    path: tuple[str, ...]
    sender: Sender | None
    cites: tuple[int, ...]
    rejected: tuple[Rejected, ...]
    runner_up: str | None
    grade: Grade
    sentence: str

    def document(self) -> dict[str, Any]:
        return {
            "hypothesis": self.hypothesis.value,
            "cause": self.cause,
            "certainty": self.certainty.value,
            "path": list(self.path),
            "sender": None if self.sender is None else self.sender.document(),
            "cites": list(self.cites),
            "rejected": [{"cause": r.cause, "why": r.why} for r in self.rejected],
            "runner_up": self.runner_up,
            "grade": self.grade.document(),
            "sentence": self.sentence,
        }


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a subject's main process, or of the container itself.

    Attributes:
        container: 64 hex digits.
        at: The kernel's time of the exit (ns, machine boottime); when the
            kernel's was not seen, the best there is (see `at_source`).
        at_source: Which source gave `at`, e.g. "trace", "proc", "docker".
        pid: The kernel's pid of the main process; None if never known.
        wait_status: Raw wait status; None when no source saw it.
        exit_code: What Docker says, or derived from wait_status.
        signal: The deadly signal, when the raw status says it was one.
        planned: The harness ordered this stop itself.
    """

    container: str
    at: int
    at_source: str
    pid: int | None = None
    wait_status: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    planned: bool = False

    def document(self) -> dict[str, Any]:
        return {
            "at": self.at / 1e9,
            "pid": self.pid,
            "wait_status": self.wait_status,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "planned": self.planned,
        }


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the judge says of one trial. `verdict` is there for died and exec-failed.

    Attributes:
        why: For unobserved and invalid trials: what was missing, in words.
    """

    outcome: Outcome
    death: Death | None = None
    verdict: Verdict | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One line of `trials.jsonl`: what was run and what was measured, unjudged.

    Attributes:
        trial: "<cell>/<n>".
        config: Axis → plain value (bytes, seconds, numbers, strings, None).
        delay_asked: Seconds.
        delay_happened: Seconds from the remount's end (or start, if asked so)
            to the exec request; None when the exec was never requested.
        exec: {before, after, exit_code, status, error, seconds} or None.
        spans: Phase → (begin, end) in seconds since the trial began.
        aborted: Why the harness itself broke the trial off (→ invalid), or None.
        events: How many events were stored.
        sha256: Checksum of the stored events (uncompressed).
    """

    trial: str
    cell: str
    n: int
    config: dict[str, Any]
    seed: int
    block: int
    warm_up: bool
    began: str
    delay_asked: float
    delay_happened: float | None
    exec: dict[str, Any] | None
    spans: dict[str, tuple[float, float | None]]
    aborted: str | None
    events: int
    sha256: str
    extra: dict[str, Any] = field(default_factory=dict)
