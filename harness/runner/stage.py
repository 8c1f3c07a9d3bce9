"""What every step of a trial shares: whom it works with, what it has made, how it tells.

Rule: steps run in threads of their own and speak only through `Stage.say` and their
return value. Every request of ours is told before it is made and after it is answered,
with the instants of the request itself.
"""

from __future__ import annotations

import os
import subprocess  # noqa: TC003 - a value of this type is kept
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness import events as e
from harness import process
from harness.clock import Clock, RealClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from harness.engine import Answer, Engine
    from harness.machine import Machine
    from harness.model.container import ImageSpec
    from harness.model.experiment import TrialSpec
    from harness.runner.world import Link

MAIN = "main"


def now(clock: Clock | None = None) -> dict[str, Any]:
    """The common members of an event of ours that happens at this instant."""
    at = (clock or RealClock()).now()
    return {"t": at, "seen": at, "source": "runner", "clock": "harness"}


class StepFailed(Exception):
    """The phase's work could not be done; says why.

    engine: the engine was not there or did not answer, so it is a finding about the engine
    and not about what it was asked to do.
    """

    def __init__(self, why: str, *, engine: bool = False) -> None:
        super().__init__(why)
        self.engine = engine


@dataclass
class Stage:
    """What every step needs, and what they have made so far.

    Attributes:
        say: Puts an event into the trial's queue; from any thread.
        token: Short, unique on this engine: part of every name made for the trial.
        ids: Name within the experiment → container id.
        made: Every container id made, for the clean-up.
        networks, volumes: Word in the experiment → name on the engine.
        shared: Directory made a shared mount for propagation → how many mounts it had before.
        known: Images that this engine was given already, for earlier trials too.
        abandoned: Set when the loop has left: a late step must make nothing new.
        full: With `--monitors full`, the directory for what strace writes; else None.
        began: When the trial began, ns of the clock.
    """

    spec: TrialSpec
    machine: Machine
    engine: Engine
    link: Link
    say: Callable[[e.Event], None]
    token: str
    labels: Mapping[str, str]
    cgroup: str
    clock: Clock = field(default_factory=RealClock)
    ids: dict[str, str] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    networks: dict[str, str] = field(default_factory=dict)
    volumes: dict[str, str] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    known: dict[ImageSpec, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    full: Path | None = None
    abandoned: threading.Event = field(default_factory=threading.Event)
    began: int = field(init=False)
    _subjects: list[tuple[int, str]] = field(default_factory=list)
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.began = self.clock.now()

    # --- who is who ---

    @property
    def subject(self) -> str:
        """The id of the latest one; "" before the first."""
        return self.ids.get(MAIN, "")

    def is_now(self, name: str, container: str) -> None:
        """From this instant on `name` means this container."""
        self.ids[name] = container
        if name == MAIN:
            self._subjects.append((self.clock.now(), container))

    def subject_at(self, instant: int) -> str:
        """Whom the subject's name meant then: a recreate puts another one behind it."""
        then = [container for since, container in self._subjects if since <= instant]
        return then[-1] if then else self.subject

    def title(self, name: str) -> str:
        """What a container of the trial is called on the engine."""
        return f"{self.token}-{name}"

    # --- on the harness's own host ---

    def environment(self) -> dict[str, str]:
        """What a script on the host is told."""
        return {
            **os.environ,
            "DOCKER_HOST": self.machine.docker_host,
            "CONTAINER": self.title(MAIN),
            "CONTAINER_ID": self.subject,
            "DEATHBENCH_TRIAL": self.spec.trial,
        }

    def child(self, started: subprocess.Popen[bytes]) -> None:
        """A host script has begun: it must not outlive the trial."""
        with self._lock:
            self._children.append(started)
            late = self.abandoned.is_set()
        if late:
            process.kill_session(started)

    def abandon(self) -> None:
        """The loop has left: nothing new is made, scripts on the host end."""
        with self._lock:
            self.abandoned.set()
            children = [c for c in self._children if c.poll() is None]
        for child in children:
            process.kill_session(child)

    # --- telling ---

    def now(self) -> dict[str, Any]:
        """The common members of an event of the trial that happens at this instant."""
        return now(self.clock)

    def at(self, instant: int | None) -> dict[str, Any]:
        """The same for an instant that has passed."""
        common = now(self.clock)
        return common if instant is None else {**common, "t": instant}


def call(
    stage: Stage,
    name: str,
    container: str,
    request: Callable[[], Answer[Any]],
    *,
    planned: bool = False,
) -> Answer[Any]:
    """One request of ours to the engine, told before and after."""
    stage.say(
        e.ApiCall(**stage.now(), call=name, container=container, edge="request", planned=planned)
    )
    answer = request()
    stage.say(
        e.ApiCall(
            **stage.at(answer.answered),
            call=name,
            container=container,
            edge="answer",
            planned=planned,
            http=answer.http,
            error=answer.error,
        )
    )
    return answer


def needed(answer: Answer[Any], what: str) -> Any:
    """The value.

    Raises:
        StepFailed: there is none.
    """
    if answer.failure is not None:
        raise StepFailed(f"{what}: {answer.failure}", engine=answer.http is None)
    return answer.value


def status(
    stage: Stage, label: str, container: str, *, deadline: float = 5.0
) -> dict[str, Any] | None:
    """Ask the engine for the State and tell it; the whole inspect answer, None without one."""
    answer = stage.engine.inspect(container, deadline=deadline)
    inspected = answer.value
    stage.say(
        e.Status(
            **stage.at(answer.answered),
            label=label,
            container=container,
            by="inspect",
            state=None if inspected is None else inspected.get("State"),
            error=answer.error,
            http=answer.http,
        )
    )
    return inspected
