"""Positional words that may be left out: `judge` and `judge CAMPAIGN` are both right.

invoke (3.0) knows positional arguments only as required ones: an argument with a default is
reachable as a flag alone. Here an unset word looks missing while words are being handed out,
and takes its default when the task's part of the command line is complete.
"""

from __future__ import annotations

from typing import Any

from invoke.parser.argument import Argument
from invoke.parser.parser import ParseMachine
from invoke.tasks import Task


class Word(Argument):
    """A positional word with a default."""

    settled = False

    @property
    def value(self) -> Any:
        if self._value is None and not self.settled:
            return None
        return super().value

    @value.setter
    def value(self, given: str) -> None:
        self.set_value(given, cast=True)


class Verb(Task):  # type: ignore[type-arg]
    """A task whose positional arguments are `Word`s."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        # invoke takes the help texts out of the task: the second who asks finds none.
        kept = dict(self.help)
        found = super().get_arguments(ignore_unknown_help)
        self.help = kept
        for argument in found:
            if argument.positional:
                argument.__class__ = Word
        return found


def _settle(machine: Any, *, settled: bool) -> None:
    for argument in machine.context.positional_args if machine.context else ():
        if isinstance(argument, Word):
            argument.settled = settled


def _handle_token(machine: Any, token: str) -> None:
    """`--help` behind a verb is a flag, and a word behind `--resume` belongs to it."""
    flag = machine.flag
    waiting = flag is not None and flag.optional and flag.raw_value is None
    _settle(machine, settled=waiting or token.startswith("-"))
    try:
        _handle(machine, token)
    except ValueError:  # from the argument's kind: invoke lets it through as a traceback
        machine.error(f"Flag {flag!r} takes a whole number, not {token!r}")


def _complete_context(machine: Any) -> None:
    _settle(machine, settled=True)
    _complete(machine)


_handle, _complete = ParseMachine.handle, ParseMachine.complete_context
ParseMachine.handle = _handle_token  # type: ignore[method-assign,assignment]
ParseMachine.complete_context = _complete_context  # type: ignore[method-assign,assignment]
