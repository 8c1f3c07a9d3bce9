"""`clean`: remove what killed runs left behind, and say what it was."""

from __future__ import annotations

import json as jsonlib
import os
import sys

from harness import LABEL, process
from harness.errors import ExitCode
from harness.machine import ProbeSite, leftovers


def main(*, dry: bool = False, json: bool = False) -> int:
    """Exit code 0 when nothing is left, 3 when something would not go."""
    found = leftovers.clean(dry=dry)
    found.removed += [line for line in _instances(dry=dry) if line not in found.removed]
    if json:
        document = {
            "format": "deathbench.clean/1",
            "dry": dry,
            "removed": found.removed,
            "stuck": found.stuck,
            "spared": found.spared,
        }
        print(jsonlib.dumps(document))
    else:
        for line in found.removed:
            print(("would remove " if dry else "removed ") + line)
        for line in found.stuck:
            print(f"could not remove {line}")
        for line in found.spared:
            print(f"spared {line}: it is alive")
        if not found.removed and not found.stuck:
            print("nothing to clean")
    return int(ExitCode.ENVIRONMENT if found.stuck else ExitCode.OK)


def _instances(*, dry: bool) -> list[str]:
    """Tracing instances of dead probes, also where tracefs is mounted nowhere."""
    # In a PID namespace of our own every living probe would look dead.
    if sys.platform != "linux" or os.geteuid() != 0 or not process.sees_all():
        return []
    from harness.runner.link import clear_instances

    here = ProbeSite(python=(sys.executable,), config={})
    return [f"tracing instance {name}" for name in clear_instances(here, LABEL, dry=dry)]
