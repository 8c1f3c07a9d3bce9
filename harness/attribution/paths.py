"""Paths and senders of verdicts, as the rules name them: from the root cause to the end.

Rule: a path begins with the cause, and its last step is how the main process went.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.attribution import oom as m
from harness.model.verdicts import Sender, SenderKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.attribution.case import Case


def path(*steps: str) -> Callable[[Case], tuple[str, ...]]:
    """A path that is always the same."""
    return lambda case: steps


def ended(*steps: str) -> Callable[[Case], tuple[str, ...]]:
    """A path whose last step is how the main process went."""

    def made(case: Case) -> tuple[str, ...]:
        if case.left_with is not None:
            return (*steps, "main-exited")
        return (*steps, "main-killed")

    return made


def oom_path(cause: str) -> Callable[[Case], tuple[str, ...]]:
    """The main process fell to the OOM killer, alone or with its whole cgroup."""
    return lambda case: (cause, "whole-cgroup-killed" if m.whole_group(case) else "main-killed")


def kernel(kind: SenderKind) -> Callable[[Case], Sender]:
    """The kernel did it, in this scope."""
    return lambda case: Sender(kind)


def stopped(case: Case) -> tuple[str, ...]:
    """A stop of the engine, with or without its grace."""
    return (
        ("docker-stop", "grace-expired", "main-killed")
        if case.killed_by == 9
        else ended("docker-stop")(case)
    )
