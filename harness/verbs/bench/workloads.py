"""What watching does to the watched: four pre-tasks under monitors off, light and full.

Two measures. The wall clock is what a user feels; so that others on the machine do not
decide it, the pen is served before them while it is measured. The CPU time that the
container's group was charged (for an exec the whole pen's: most of it is the daemons')
says what the kernel does more for being watched, whoever else is there.

Rule: a round runs every workload under every level, forth and back again (off, light,
light, off), so that a machine that grows slower meanwhile does so on both sides; the
ratio is taken within a round. Rounds go on until the intervals decide, or the budget is
spent. They are looked at LOOKS times at most, and each look pays for the others.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from typing import TYPE_CHECKING

from harness import clock
from harness.machine import cgroups
from harness.runner.link import ProbeLink
from harness.stats.medians import median
from harness.verbs.bench import spending
from harness.verbs.bench.ratio import Ratio, interval, mirrored

if TYPE_CHECKING:
    from collections.abc import Iterator

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
Times = dict[tuple[str, str, str], dict[int, float]]
"""(workload, level, measure) → by round: seconds."""
FIRST = {1: ("cpu.shares", "262144"), 2: ("cpu.weight", "10000")}
"""The most that one control group can weigh against its neighbours, by version."""
LOOKS = (10, 20, 40)
"""Numbers of rounds after which it is asked whether that is decided."""
ALPHA = 0.05 / len(LOOKS)
FULL_EVERY = 5
"""Rounds from one look at full monitoring to the next: it is told, and has no aim."""


@contextlib.contextmanager
def first_served(group: str, where: cgroups.Layout | None = None) -> Iterator[bool]:
    """This group's processes get the processor before everybody else's; yields whether they do.

    Our probe runs at real-time priority outside of it: what it takes, it takes from here.
    """
    where = where or cgroups.layout()
    name, most = FIRST[where.version]
    folder = where.of("cpu", group)
    if folder is None or not (folder / name).exists():
        yield False
        return
    before = (folder / name).read_text().strip()
    (folder / name).write_text(most)
    try:
        yield True
    finally:
        (folder / name).write_text(before)


def compare(bench: Bench, *, rounds: int, budget: float) -> Iterator[Ratio]:
    """Ratios of light to off (with an aim) and of full to off (told only)."""
    with first_served(bench.pen.cgroup) as first:
        if not first:
            bench.say("  no cpu control group: what others do here shows in the wall clock")
        yield from _rounds(bench, rounds=rounds, budget=budget)


def _rounds(bench: Bench, *, rounds: int, budget: float) -> Iterator[Ratio]:
    times: Times = {}
    container = bench.start(None, bench.container(ShmSize=256 << 20))
    end = time.monotonic() + budget
    try:
        for number in range(rounds):
            half = ["off", "light"] if number % 2 else ["light", "off"]
            if number % FULL_EVERY == 0:
                half.append("full")
            found: Times = {}
            for level in half + half[::-1]:
                _block(bench, container, level, found)
            for what, values in found.items():
                times.setdefault(what, {})[number] = math.sqrt(values[0] * values[1])
            light = [r for r in _ratios(times) if r.aim]
            bench.say(f"  round {number + 1}: " + ", ".join(
                f"{r.name.partition(': ')[2]} {r.ratio:.3f} ({interval(r)})" for r in light
            ))  # fmt: skip
            if time.monotonic() > end or (number + 1 in LOOKS and all(map(_decided, light))):
                break
    except KeyboardInterrupt:
        yield from _ratios(times)  # what the whole rounds say
        raise
    yield from _ratios(times)
    bench.remove(None, container)


def _decided(ratio: Ratio) -> bool:
    """Is the whole interval on one side of the aim?"""
    assert ratio.aim is not None
    return bool(ratio.met) or (ratio.low is not None and ratio.low > ratio.aim[1])


def _block(bench: Bench, container: str, level: str, found: Times) -> None:
    """Every workload once under one level; values are added to `found` in the order of measuring."""
    with ProbeLink(bench.pen.probe_site(), monitors=level, on_event=bench.on_event) as link:
        link.watch(container)
        link.flush(10)
        time.sleep(0.3)
        for name, argv in WORKLOADS.items():
            each = [_run(bench, container, argv) for _ in range(REPEAT.get(name, 1))]
            for measure, values in zip(("wall", "CPU"), zip(*each, strict=True), strict=True):
                of = found.setdefault((name, level, measure), {})
                of[len(of)] = median(values)


def _ratios(times: Times) -> list[Ratio]:
    made = []
    for level, name, measure in itertools.product(("light", "full"), WORKLOADS, ("wall", "CPU")):
        ours, off = times.get((name, level, measure), {}), times.get((name, "off", measure), {})
        pairs = [(ours[n], off[n]) for n in sorted(ours) if off.get(n) and ours[n]]
        if pairs:
            made.append(
                mirrored(
                    f"perturbation, {level}: {name}, {measure}", pairs, competitor="monitors off",
                    unit="s", alpha=ALPHA,
                    aim=("<=", AIMS.get(name, 1.02)) if level == "light" else None,
                )
            )  # fmt: skip
    return made


def _run(bench: Bench, container: str, argv: tuple[str, ...]) -> tuple[float, float]:
    """Seconds from the request to the end of its output, and CPU seconds of whoever did it."""
    group = (
        bench.pen.cgroup if argv == WORKLOADS["exec true"] else f"{bench.pen.cgroup}/{container}"
    )
    made = bench.client.exec_create(container, argv).need("exec")
    used, begin = spending.group_cpu(group), clock.now()
    bench.client.exec_start(made, deadline=60).need("exec start")
    wall = clock.seconds_since(begin)
    return wall, spending.group_cpu(group) - used
