"""What is written of a trial: its history while it runs, its line in the end.

Rule: told and measured, never judged: events, spans, the exec's answer, the delay that
really was, what was in the way. Files for people beside the history are written here too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from harness import events as e
from harness.model.verdicts import TrialRecord
from harness.runner.pretask import BEFORE, LABEL

if TYPE_CHECKING:
    from harness.clock import Clock
    from harness.engine import ExecAnswer
    from harness.model.experiment import TrialSpec
    from harness.runner.observed import Observed
    from harness.runner.pretask import PreTask
    from harness.runner.stage import Stage
    from harness.store import TrialWriter


@dataclass
class Measured:
    """One trial's figures.

    Attributes:
        before, after: The subject's status around the pre-task, in the engine's words.
        aborted: Why the harness itself broke the trial off.
        trouble: What could not be collected or removed, in words.
    """

    clock: Clock
    began: int = 0
    wall: str = ""
    spans: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    before: str | None = None
    after: str | None = None
    aborted: str | None = None
    trouble: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """The trial begins now: all spans count from here."""
        from datetime import UTC, datetime

        self.began = self.clock.now()
        at = datetime.fromtimestamp(self.clock.wall() / 1e9, UTC)
        self.wall = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def seconds(self, instant: int | None = None) -> float:
        """Since the trial began."""
        instant = self.clock.now() if instant is None else instant
        return round((instant - self.began) / 1e9, 6)

    def enter(self, phase: str, instant: int | None = None) -> None:
        """A phase begins. instant: ns of the harness clock, None for now."""
        self.spans[phase] = (self.seconds(instant), None)

    def leave(self, phase: str, instant: int | None = None) -> None:
        """A phase ends that has begun; a phase that never does keeps None as its end."""
        begin, _ = self.spans[phase]
        self.spans[phase] = (begin, self.seconds(instant))

    def looked(self, event: e.Status) -> None:
        """A status was told: one of the two around the pre-task?"""
        word = (event.state or {}).get("Status") if event.state else event.error
        if event.label == "before pre-task":
            self.before = word
        elif event.label == "after pre-task":
            self.after = word

    def record(
        self, spec: TrialSpec, pre_task: PreTask, stage: Stage, count: int, checksum: str
    ) -> TrialRecord:
        """The trial's line. count and checksum: of the stored events, see `TrialWriter.close`."""
        extra: dict[str, Any] = {"containers": dict(stage.ids)}
        if self.trouble:
            extra["trouble"] = list(self.trouble)
        return TrialRecord(
            trial=spec.trial,
            cell=spec.cell,
            n=spec.n,
            config=dict(spec.config),
            seed=spec.seed,
            block=spec.block,
            warm_up=spec.warm_up,
            began=self.wall,
            delay_asked=spec.experiment.delay.seconds,
            delay_happened=pre_task.delay,
            exec=None if pre_task.answer is None else self._exec(pre_task.answer),
            spans=self.spans,
            aborted=self.aborted,
            events=count,
            sha256=checksum,
            extra=extra,
        )

    def _exec(self, answer: ExecAnswer) -> dict[str, Any] | None:
        if answer.requested is None:
            return None
        return {
            "before": self.before,
            "after": self.after,
            "exit_code": answer.exit_code,
            "status": answer.http,
            "error": answer.error,
            "seconds": answer.seconds,
            "output": answer.output[-2000:],
            "timed_out": answer.timed_out,
        }


class Diary:
    """The history of a trial as it is written: every event with its number, in order.

    Attributes:
        open: What comes is part of the trial; False once the clean-up has begun.
    """

    def __init__(
        self, writer: TrialWriter, observed: Observed, measured: Measured, pre_task: PreTask
    ) -> None:
        self.open = True
        self._writer, self._observed, self._measured = writer, observed, measured
        self._pre_task = pre_task
        self._stage = pre_task.stage

    def store(self, event: e.Event) -> None:
        """As it is, before anything else is done with it."""
        if self.open:
            self._writer.add(event)
            self._file(event)
        self._observed.see(event)

    def note(self, what: str, data: dict[str, Any]) -> None:
        self.store(e.Note(**self._stage.now(), what=what, data=data))

    def hear(self, event: e.Event) -> None:
        """One that came through the queue: a status may need its right name, a request its own."""
        if isinstance(event, e.Status):
            due = self._pre_task.due
            if event.label == BEFORE and due is not None and event.t > due:
                event = replace(event, label=f"during {LABEL}")  # the engine was slow
            self._measured.looked(event)
        self.store(event)
        if isinstance(event, e.Exec) and event.label == LABEL and event.edge == "request":
            self._asked(event.t)

    def _asked(self, at: int) -> None:
        """The pre-task was asked for: tell what the observer knew then, unless the engine was asked."""
        container = self._stage.subject_at(at)
        if self._measured.before is not None or not container:
            return
        told = e.Status(
            **self._stage.at(at),
            label=BEFORE,
            container=container,
            by="observer",
            state={"Status": self._observed.status(at, container)},
        )
        self._measured.looked(told)
        self.store(told)

    def _file(self, event: e.Event) -> None:
        """Beside the history, for people: logs, and the pieces of the post-mortem."""
        match event:
            case e.Exec(edge="answer") if event.output:
                self._writer.text(f"{event.label}.log", event.output)
            case e.Logs() if event.text:
                self._writer.text("container.log", event.text)
            case e.PostMortem():
                for path, text in event.files.items():
                    self._writer.text(f"postmortem/{event.container[:12]}/{path}", text)
            case _:
                pass
