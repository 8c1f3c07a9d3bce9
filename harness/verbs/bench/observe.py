"""`bench observe`: detection, cost, perturbation, and nothing missed.

Rule: a pen of its own, its own containers, every part self-contained. Times are one
clock's (pen and harness share the kernel). What is killed is killed with SIGKILL from
the host, so that the kernel's own time of the exit is the zero of every latency.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from harness import clock, engine, images
from harness.errors import EnvironmentInvalid
from harness.events import DeathSeen, DockerEvent, Event, MainProcess, PostMortem
from harness.machine.pen import Pen
from harness.runner.link import ProbeLink
from harness.stats.medians import median, quantile
from harness.verbs.bench import guide, spending, workloads
from harness.verbs.bench.ratio import Ratio, alone, paired

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.engine import Engine

PARTS = ("detection", "missed", "cost", "perturbation")
MS = 1e-6  # of a nanosecond


@dataclass
class Bench:
    """A pen with an engine, an image, and everything the probe said with the time it came."""

    pen: Pen
    client: Engine
    image: str
    say: Callable[[str], None]
    quick: bool
    heard: list[tuple[int, Event]] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def on_event(self, event: Event) -> None:
        """For the link: keep it, with the instant it came (ns)."""
        now = clock.now()
        with self.news:
            self.heard.append((now, event))
            self.news.notify_all()

    def of(self, kind: type[Event], **members: Any) -> list[tuple[int, Any]]:
        """(instant it came, event) of every event of that kind with these members."""
        with self.news:
            return [
                (came, e)
                for came, e in self.heard
                if isinstance(e, kind) and all(getattr(e, k) == v for k, v in members.items())
            ]

    def wait(self, kind: type[Event], deadline: float = 30.0, **members: Any) -> tuple[int, Any]:
        """The first such event. Raises EnvironmentInvalid after `deadline` seconds."""
        end = clock.now() + int(deadline * clock.NS)
        while not (found := self.of(kind, **members)):
            with self.news:
                if clock.now() > end:
                    raise EnvironmentInvalid(f"no {kind.__name__} {members} in {deadline:g} s")
                self.news.wait(0.05)
        return found[0]

    def container(self, *argv: str, **host: Any) -> str:
        """Create one (its id), not started. host: keys of the API's HostConfig."""
        config = {
            "Image": self.image,
            "Cmd": list(argv) or ["sleep", "100000"],
            "HostConfig": {"NetworkMode": "none", **host},
        }
        return self.client.create(None, config).need("create")

    def start(self, link: ProbeLink | None, container: str) -> str:
        """Start it, announced to the link where there is one."""
        if link is not None:
            link.watch(container)
        self.client.start(container).need("start")
        return container

    def remove(self, link: ProbeLink | None, *containers: str) -> None:
        """Forget and remove them, dead or alive."""
        for container in containers:
            if link is not None:
                link.unwatch(container)
            self.client.remove(container, force=True)


def run(
    parts: list[str], found: list[Ratio], *, quick: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """The machine; ratios are added to `found` as they become known.

    Raises:
        EnvironmentInvalid: no pen is to be had here, or no docker client.
    """
    if not guide.runs():
        raise EnvironmentInvalid("no docker client", mend="the competitor needs `docker` on PATH")
    with Pen(memory=2 << 30, disk=4 << 30) as pen:
        client = engine.connect(pen.docker_host)
        try:
            image = images.ensure(client, SimpleNamespace(rootfs="busybox", ref=None, build=None))
            bench = Bench(pen, client, image, say, quick)
            for part in parts:
                say(f"{part} …")
                for row in _PARTS[part](bench):
                    found.append(row)  # noqa: PERF402 - kept, whatever cuts the next one
            return pen.facts().document() | {"cpus": os.cpu_count()}
        finally:
            client.close()


@dataclass
class Latencies:
    """Of all deaths so far, ms: at the probe, at the harness, and beside each competitor."""

    ours: list[float] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)
    first: list[bool] = field(default_factory=list)
    others: dict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: {"die": [], "10 ms": [], "100 ms": []}
    )

    def rows(self) -> Iterator[Ratio]:
        """What they say; nothing while a competitor has none."""
        if not all(self.others.values()):
            return
        n, die, fast, slow = len(self.ours), *self.others.values()
        yield paired("detection: docker events", die, competitor="docker events, die", unit="ms")
        yield paired(
            "detection: 10 ms loop", fast, competitor="docker inspect every 10 ms", unit="ms",
            aim=(">=", 100),
        )  # fmt: skip
        yield paired(
            "detection: 100 ms loop", slow, competitor="docker inspect every 100 ms", unit="ms"
        )
        for where, values, aims in (
            ("", self.ours, (("<=", 0.5), ("<=", 10.0))), (", at the harness", self.arrived, (None, None)),
        ):  # fmt: skip
            yield alone(f"detection: median{where}", median(values), n=n, unit="ms", aim=aims[0])
            late = quantile(values, 0.99)
            yield alone(f"detection: 99th percentile{where}", late, n=n, unit="ms", aim=aims[1])
        yield alone(
            "detection: first post-mortem before die", sum(self.first) / n, n=n, unit="share",
            aim=(">=", 0.95),
        )  # fmt: skip


def detection(bench: Bench) -> Iterator[Ratio]:
    """Kernel exit → our event, beside `docker events` and the guide's two loops.

    Ours is the instant the probe has it, where the post-mortem begins as the guide's does in
    its loop; the way to the harness is told beside it.
    """
    deaths = 6 if bench.quick else 30
    found = Latencies()
    with ProbeLink(bench.pen.probe_site(), on_event=bench.on_event) as link:
        try:
            for number in range(deaths * 3):
                # In turn, so that the competitors do not slow each other.
                _detect(bench, link, tuple(found.others)[number % 3], found)
        except KeyboardInterrupt:
            yield from found.rows()
            raise
    yield from found.rows()


def _detect(bench: Bench, link: ProbeLink, name: str, found: Latencies) -> None:
    """One death, watched by us and by one competitor."""
    host = bench.pen.docker_host
    container = bench.start(link, bench.container())
    pid = bench.wait(MainProcess, container=container)[1].pid
    if name == "die":
        rival = guide.die(container, host)
    else:
        rival = guide.loop(container, host, 0.01 if name == "10 ms" else 0.1)
    clock.RealClock().sleep(0.4)  # it is in its stride
    os.kill(pid, signal.SIGKILL)
    seen = rival.line()
    rival.end()
    came, death = bench.wait(DeathSeen, container=container)
    die, _ = bench.wait(DockerEvent, id=container, action="die")
    found.ours.append((death.seen - death.t) * MS)
    found.arrived.append((came - death.t) * MS)
    found.others[name].append((found.ours[-1], (seen - death.t) * MS))
    found.first.append(bench.wait(PostMortem, container=container)[0] < die)
    bench.remove(link, container)


def missed(bench: Bench) -> Iterator[Ratio]:
    """Deaths in bursts: each told exactly once."""
    total, burst = (60, 20) if bench.quick else (1000, 50)
    born: list[str] = []

    def rows() -> Iterator[Ratio]:
        told = Counter(e.container for _, e in bench.of(DeathSeen))
        for what, count in (
            ("missed", sum(told[c] == 0 for c in born)), ("doubled", sum(told[c] > 1 for c in born)),
        ):  # fmt: skip
            yield alone(f"{what} deaths", count, n=len(born), unit="deaths", aim=("<=", 0))

    with ProbeLink(bench.pen.probe_site(), on_event=bench.on_event) as link:
        try:
            while len(born) < total:
                group = [bench.container() for _ in range(burst)]
                _together([partial(bench.start, link, c) for c in group])
                pids = [bench.wait(MainProcess, container=c)[1].pid for c in group]
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                for container in group:
                    bench.wait(DockerEvent, id=container, action="die")
                link.flush(30)
                born += group
                _together([partial(bench.remove, link, c) for c in group])
                bench.say(f"  {len(born)} of {total}")
        except KeyboardInterrupt:
            yield from rows()  # of the whole bursts
            raise
    yield from rows()


def cost(bench: Bench) -> Iterator[Ratio]:
    """Cores that watching takes, the daemons' share included, against the guide's monitors."""
    have: list[str] = []
    for count in (1, 10) if bench.quick else (1, 10, 50):
        fresh = [bench.container() for _ in range(count - len(have))]
        _together([partial(bench.start, None, c) for c in fresh])
        have += fresh
        pairs = spending.compare(bench.pen, have, bench.on_event, rounds=2 if bench.quick else 6)
        yield paired(
            f"cost: {count} containers", pairs, competitor="the guide's monitors", unit="cores",
            aim=(">=", 20),
        )  # fmt: skip
    bench.remove(None, *have)


def perturbation(bench: Bench) -> Iterator[Ratio]:
    """What watching does to what is watched: monitors off, light and full, forth and back."""
    return workloads.compare(
        bench, rounds=2 if bench.quick else 40, budget=90 if bench.quick else 460
    )


def _together(jobs: list[Callable[[], Any]], width: int = 8) -> None:
    """Side by side, a few at a time; the first failure is raised."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(width) as pool:
        for job in [pool.submit(job) for job in jobs]:
            job.result()


_PARTS: dict[str, Callable[[Bench], Iterator[Ratio]]] = {
    "detection": detection, "missed": missed, "cost": cost, "perturbation": perturbation,
}  # fmt: skip
