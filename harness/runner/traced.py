"""`--monitors full`: an exec as people run it, through the docker program and under strace.

Rule: the lines lie whole beside the history; the history holds them up to a limit, on the
trial's clock, and a gap says where they end. Where a program is missing it is said once per
exec, and the exec goes through the API as always.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness import events as e
from harness import process
from harness.parse.strace import parse_strace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from harness.engine import Aimed, ExecAnswer
    from harness.runner.stage import Stage

SOURCE = "strace"
LINES = 2000
"""Lines of one exec that go into the history: a client writes some two hundred."""
_LINE = 500
_BYTES = LINES * _LINE


def prepare(
    stage: Stage,
    directory: Path,
    label: str,
    container: str,
    argv: Sequence[str],
    *,
    tell: Callable[[ExecAnswer], None],
    **options: Any,
) -> Aimed | None:
    """The exec through the docker program; None where there is no such program here.

    directory: Where `strace.LABEL` is written.
    """
    strace = process.which("strace")
    file = directory / f"{SOURCE}.{label}"

    def told(answer: ExecAnswer) -> None:
        tell(answer)
        if answer.edge == "answer" and strace is not None:
            _lines(stage, file, label)

    made = stage.engine.command_exec(
        container,
        argv,
        strace=None if strace is None else (strace, str(file)),
        tell=told,
        **options,
    )
    if made is None:
        why = "no docker program here that reaches this engine: the exec goes through the API"
        _announce(stage, "unsupported", why)
    elif strace is None:
        _announce(stage, "unsupported", "no strace on this host: the docker program runs untraced")
    else:
        _announce(stage, "active", f"{label} through the docker program")
    return made


def _announce(stage: Stage, state: str, why: str) -> None:
    stage.say(e.SourceState(**stage.now(), name=SOURCE, state=state, why=why))


def _lines(stage: Stage, file: Path, label: str) -> None:
    """Tell what strace wrote. Its stamps are the wall clock's: put on ours by both as they are now."""
    offset = stage.clock.now() - stage.clock.wall()
    try:
        with open(file, errors="replace") as source:
            text = source.read(_BYTES + 1)
    except FileNotFoundError:
        now = stage.clock.now()
        stage.say(e.Gap(**stage.now(), name=SOURCE, begin=now, end=now, why="strace wrote nothing"))
        return
    lines = text.splitlines()
    last: int | None = None
    for line in lines[:LINES]:
        fact = parse_strace(line)
        if fact is None or fact.at is None:
            continue
        last = fact.at + offset
        stage.say(
            e.Syscall(**stage.at(last), tracer="strace", of=label, text=line[:_LINE])
        )  # fmt: skip
    if len(lines) > LINES or len(text) > _BYTES:
        now = stage.clock.now()
        why = f"more than the history takes: the rest is in {file.name}"
        stage.say(e.Gap(**stage.now(), name=SOURCE, begin=last or now, end=now, why=why))
