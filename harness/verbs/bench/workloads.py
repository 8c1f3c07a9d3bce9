"""What watching does to the watched: four pre-tasks under monitors off, light and full.

Two measures. The wall clock is what a user feels, and on a machine that others use it
takes many rounds to decide; the CPU time that the container's group was charged says
what the kernel does more for being watched, whoever else is there.

Rule: a round runs every workload under every level, in an order that changes with the
round; the ratio is taken within a round, so that a slow minute of the machine falls on
all levels. Rounds go on until the interval's upper end decides, or the budget is spent.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from harness import clock
from harness.runner.link import ProbeLink
from harness.stats.medians import median
from harness.verbs.bench import spending
from harness.verbs.bench.ratio import Ratio, paired

if TYPE_CHECKING:
    from harness.verbs.bench.observe import Bench

# Each about half a second here; `true` is asked for several times and its median taken.
WORKLOADS = {
    "exec true": ("true",),
    "system calls": ("dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=400000"),
    "forks": ("sh", "-c", "i=0; while [ $i -lt 400 ]; do /bin/true; i=$((i+1)); done"),
    "memory": (
        "sh",
        "-c",
        "for i in 1 2 3 4; do dd if=/dev/zero of=/dev/shm/x bs=1M count=180; done",
    ),
}
REPEAT = {"exec true": 8}
AIMS = {"exec true": 1.03}
LEVELS = ("off", "light", "full")
Times = dict[tuple[str, str, str], list[float]]
"""(workload, level, measure) → seconds, a value a round."""
LEAST = 6
"""Rounds before an interval means anything."""


def compare(bench: Bench, *, rounds: int, budget: float) -> list[Ratio]:
    """Ratios of light to off (with an aim) and of full to off (told only)."""
    times: Times = {}
    container = bench.start(None, bench.container(ShmSize=256 << 20))
    orders = list(itertools.permutations(LEVELS))
    end = time.monotonic() + budget
    for number in range(rounds):
        for level in orders[number % len(orders)]:
            with ProbeLink(bench.pen.probe_site(), monitors=level, on_event=bench.on_event) as link:
                link.watch(container)
                link.flush(10)
                time.sleep(0.3)
                for name, argv in WORKLOADS.items():
                    each = [_run(bench, container, argv) for _ in range(REPEAT.get(name, 1))]
                    for measure, values in zip(
                        ("wall", "CPU"), zip(*each, strict=True), strict=True
                    ):
                        times.setdefault((name, level, measure), []).append(median(values))
        light = [r for r in _ratios(times) if r.aim]
        if number + 1 >= LEAST and all(r.met for r in light):
            break
        if time.monotonic() > end:
            break
        bench.say(f"  round {number + 1}: " + ", ".join(
            f"{r.name.partition(': ')[2]} {r.ratio:.3f} (up to {r.high:.3f})" for r in light
        ))  # fmt: skip
    bench.remove(None, container)
    return _ratios(times)


def _ratios(times: Times) -> list[Ratio]:
    made = []
    for level in ("light", "full"):
        for name, measure in itertools.product(WORKLOADS, ("wall", "CPU")):
            if (name, measure) == ("exec true", "CPU"):
                continue  # most of an exec is the daemons' work, outside the container
            pairs = list(zip(times[name, level, measure], times[name, "off", measure], strict=True))
            aim = ("<=", AIMS.get(name, 1.02)) if level == "light" else None
            made.append(
                paired(
                    f"perturbation, {level}: {name}, {measure}", pairs, competitor="monitors off",
                    unit="s", invert=True, aim=aim, by="high",
                )
            )  # fmt: skip
    return made


def _run(bench: Bench, container: str, argv: tuple[str, ...]) -> tuple[float, float]:
    """Seconds from the request to the end of its output, and CPU seconds in the container."""
    made = bench.client.exec_create(container, argv).need("exec")
    used, begin = spending.group_cpu(f"{bench.pen.cgroup}/{container}"), clock.now()
    bench.client.exec_start(made, deadline=60).need("exec start")
    wall = clock.seconds_since(begin)
    return wall, spending.group_cpu(f"{bench.pen.cgroup}/{container}") - used
