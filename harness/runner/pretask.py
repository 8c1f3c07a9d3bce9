"""The pre-task: made ready early, asked for once at its instant, answered once.

Rule: whoever is first decides when it is asked for (the remount's own thread at its end,
or the loop when the remount failed): the second one finds it done. What it costs to make
it ready lies before the delay is counted.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from harness import events as e
from harness import process
from harness.runner import traced
from harness.runner.stage import MAIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.engine import Aimed, ExecAnswer
    from harness.model.experiment import Script
    from harness.runner.stage import Stage

SHELL = "/bin/sh"
LABEL = "pre-task"
BEFORE = f"before {LABEL}"


class PreTask:
    """One trial's pre-task.

    Attributes:
        zero: What the delay is counted from (ns of the trial's clock); None: never known.
        due: When it is to be asked for; None while nobody has decided.
        asked: When it really was; None: not yet, or never.
    """

    def __init__(self, stage: Stage) -> None:
        self.script: Script = stage.spec.experiment.pre_task
        self.zero: int | None = None
        self.due: int | None = None
        self.answer: ExecAnswer | None = None
        self._host_asked: int | None = None
        self.stage = stage
        self._exec: Aimed | None = None
        self._lock = threading.Lock()

    @property
    def asked(self) -> int | None:
        if self.script.on == "host":
            return self._host_asked
        return self.answer.requested if self.answer is not None else None

    @property
    def delay(self) -> float | None:
        """Seconds from the zero to the request, as they really were."""
        if self.asked is None or self.zero is None:
            return None
        return round((self.asked - self.zero) / 1e9, 6)

    def prepare(self) -> None:
        """Begin to make thread and connection: they are there long before they are needed."""
        if self.script.on == "container" and self._exec is None:
            self._exec = prepare_exec(self.stage, self.script, LABEL)

    def aim(self, zero: int | None, due: int) -> bool:
        """Have it asked for at this instant; False when that was decided already."""
        with self._lock:
            if self.due is not None or self.stage.abandoned.is_set():
                return False
            self.zero, self.due = zero, due
        if self._exec is not None:
            self._exec.go(due)
        return True

    def wait(self) -> ExecAnswer | None:
        """Its answer; None for a script on the host, which is told as a note."""
        if self.script.on == "host":
            if self.due is not None:
                self.stage.clock.sleep_until(self.due)
            if not self.stage.abandoned.is_set():
                self._host_asked = self.stage.clock.now()
                on_host(self.stage, self.script, LABEL)
            return None
        assert self._exec is not None
        return self._exec.wait()

    def give_up(self) -> None:
        """Nobody waits any more: what was asked for is told as not answered."""
        if self._exec is not None:
            self._exec.give_up()

    def cancel(self) -> None:
        """Nobody wants it any more: what has not been asked for never is."""
        if self._exec is not None:
            self._exec.cancel()


# --- scripts ----------------------------------------------------------------------------


def argv_of(script: Script, name: str) -> tuple[str, ...]:
    """/bin/sh -c TEXT NAME ARGS…"""
    return (SHELL, "-c", script.text, name, *script.args)


def prepare_exec(stage: Stage, script: Script, label: str) -> Aimed:
    """Thread and connection of an exec in the subject, ready to go."""
    # By name, as people do it: while a recreate is under way the name is the old
    # container's, nobody's, then the new one's.
    whom, argv = stage.title(MAIN), argv_of(script, label)
    options: dict[str, Any] = {
        "env": script.env,
        "workdir": script.workdir,
        "user": script.user or "",
        "deadline": script.timeout,
        "tell": tell_exec(stage, label),
    }
    if stage.full is not None:
        made = traced.prepare(stage, stage.full, label, whom, argv, **options)
        if made is not None:
            return made
    return stage.engine.prepare_exec(whom, argv, **options)


def tell_exec(stage: Stage, label: str) -> Callable[[ExecAnswer], None]:
    """Turn an exec's steps into events. The request itself is told with its own instant."""
    told: set[str] = set()

    def tell(answer: ExecAnswer) -> None:
        # Whom the name meant when it was asked for: its first step is told later than that.
        container = (
            stage.subject if answer.requested is None else stage.subject_at(answer.requested)
        )
        common: dict[str, Any] = {
            "label": label, "container": container, "exec_id": answer.exec_id,
        }  # fmt: skip
        if "request" not in told and answer.requested is not None:
            told.add("request")
            request = {**common, "exec_id": None}
            stage.say(e.Exec(**stage.at(answer.requested), **request, edge="request"))
        if answer.edge in told:
            return
        told.add(answer.edge)
        if answer.edge == "created":
            stage.say(e.Exec(**stage.at(answer.created), **common, edge="created"))
        elif answer.edge == "started":
            stage.say(e.Exec(**stage.at(answer.started), **common, edge="started"))
        elif answer.edge == "answer":
            stage.say(
                e.Exec(
                    **stage.at(answer.ended),
                    **common,
                    edge="answer",
                    exit_code=answer.exit_code,
                    http=answer.http,
                    error=answer.error,
                    seconds=answer.seconds,
                    output=answer.output,
                    timed_out=answer.timed_out,
                )
            )

    return tell


def on_host(stage: Stage, script: Script, label: str, *, after: bool = False) -> process.Result:
    """Run a script on the harness's own host, told as a note.

    The trial's end ends it, unless it is what is run `after` the end.
    """
    result = process.run(
        argv_of(script, label),
        deadline=script.timeout,
        env={**stage.environment(), **script.env},
        cwd=script.workdir,
        started=None if after else stage.child,
    )
    stage.say(
        e.Note(
            **stage.now(),
            what=f"{label} on host",
            data={
                "code": result.code,
                "seconds": result.seconds,
                "timed_out": result.timed_out,
                "output": (result.out + result.err)[-8192:].decode(errors="backslashreplace"),
            },
        )
    )
    return result
