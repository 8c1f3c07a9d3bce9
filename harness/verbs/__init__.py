"""The verbs: parse arguments, call, print. Nothing is decided here.

Rule: a verb's module is imported when the verb is called, never before, so that
`--list` costs nothing; each has `main(...) -> int`, an exit code of `errors.ExitCode`.
Narration goes to stderr, results to stdout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from invoke.collection import Collection


def namespace() -> Collection:
    """All verbs as an invoke collection."""
    from harness.verbs import catalogue

    return catalogue.collection()


def program() -> None:
    """The console program `deathbench`, and `./inv`."""
    try:
        from harness.verbs import console

        console.main()
    except KeyboardInterrupt:
        # So early, or so late, that there is nothing to clean up and nothing to tell.
        raise SystemExit(130) from None
