"""The only door to the Docker SDK: requests with deadlines, answers as values.

Rule: nothing here raises for what an engine does or fails to do: an `Answer` holds
the value or a `Failure` with the HTTP status and the engine's own words, since both
are evidence. A call that blocks runs in a thread of its own that is left behind at
its deadline; its late answer is dropped. The SDK is imported on first use only.
"""

from __future__ import annotations

from harness.engine.aimed import Aimed, ExecAnswer
from harness.engine.answers import Answer, Failure, Trouble
from harness.engine.client import Engine, connect
from harness.engine.command import CommandExec
from harness.engine.execs import PreparedExec

__all__ = [
    "Aimed",
    "Answer",
    "CommandExec",
    "Engine",
    "ExecAnswer",
    "Failure",
    "PreparedExec",
    "Trouble",
    "connect",
]
