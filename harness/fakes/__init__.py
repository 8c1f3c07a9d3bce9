"""A machine, an engine, a probe and a clock in memory: the whole program runs on them.

Rule: they show what the real ones show, no more: the same answers, the same words of
refusal, the same events in the same order, and the same delays between what happens, what
the kernel says and what the engine notices. `tests/contract` asks both the same questions.
Nothing is decided here about trials, and nothing here touches a real clock, thread
pool, socket or process.
"""

from __future__ import annotations

from harness.fakes.clock import Clock
from harness.fakes.engine import Engine
from harness.fakes.link import Link
from harness.fakes.machine import Machine
from harness.fakes.world import World

__all__ = ["Clock", "Engine", "Link", "Machine", "World"]
