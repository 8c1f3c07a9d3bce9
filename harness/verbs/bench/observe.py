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
    from collections.abc import Callable

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
    parts: list[str], *, quick: bool, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[Ratio]]:
    """(the machine, the ratios). Raises EnvironmentInvalid where no pen is to be had."""
    if not guide.runs():
        raise EnvironmentInvalid("no docker client", mend="the competitor needs `docker` on PATH")
    with Pen(memory=2 << 30, disk=4 << 30) as pen:
        client = engine.connect(pen.docker_host)
        try:
            image = images.ensure(client, SimpleNamespace(rootfs="busybox", ref=None, build=None))
            bench = Bench(pen, client, image, say, quick)
            found: list[Ratio] = []
            for part in parts:
                say(f"{part} …")
                found += _PARTS[part](bench)
            return pen.facts().document() | {"cpus": os.cpu_count()}, found
        finally:
            client.close()


def detection(bench: Bench) -> list[Ratio]:
    """Kernel exit → our event, beside `docker events` and the guide's two loops.

    Ours is the instant the probe has it, where the post-mortem begins as the guide's does in
    its loop; the way to the harness is told beside it.
    """
    deaths = 6 if bench.quick else 30
    host = bench.pen.docker_host
    ours: list[float] = []
    arrived: list[float] = []
    first: list[bool] = []
    others: dict[str, list[tuple[float, float]]] = {"die": [], "10 ms": [], "100 ms": []}
    with ProbeLink(bench.pen.probe_site(), on_event=bench.on_event) as link:
        for number in range(deaths * 3):
            # In turn, so that the competitors do not slow each other.
            name = ("die", "10 ms", "100 ms")[number % 3]
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
            ours.append((death.seen - death.t) * MS)
            arrived.append((came - death.t) * MS)
            others[name].append((ours[-1], (seen - death.t) * MS))
            first.append(bench.wait(PostMortem, container=container)[0] < die)
            bench.remove(link, container)
    n = len(ours)
    return [
        paired("detection: docker events", others["die"], competitor="docker events, die", unit="ms"),
        paired(
            "detection: 10 ms loop", others["10 ms"], competitor="docker inspect every 10 ms",
            unit="ms", aim=(">=", 100),
        ),
        paired(
            "detection: 100 ms loop", others["100 ms"], competitor="docker inspect every 100 ms",
            unit="ms",
        ),
        alone("detection: median", median(ours), n=n, unit="ms", aim=("<=", 0.5)),
        alone("detection: 99th percentile", quantile(ours, 0.99), n=n, unit="ms", aim=("<=", 10)),
        alone("detection: median, at the harness", median(arrived), n=n, unit="ms"),
        alone("detection: 99th percentile, at the harness", quantile(arrived, 0.99), n=n, unit="ms"),
        alone(
            "detection: first post-mortem before die", sum(first) / n, n=n, unit="share",
            aim=(">=", 0.95),
        ),
    ]  # fmt: skip


def missed(bench: Bench) -> list[Ratio]:
    """Deaths in bursts: each told exactly once."""
    total, burst = (60, 20) if bench.quick else (1000, 50)
    told: Counter[str] = Counter()
    born: list[str] = []
    with ProbeLink(bench.pen.probe_site(), on_event=bench.on_event) as link:
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
        told.update(e.container for _, e in bench.of(DeathSeen) if e.container in set(born))
    return [
        alone("missed deaths", sum(told[c] == 0 for c in born), n=len(born), unit="deaths", aim=("<=", 0)),
        alone("doubled deaths", sum(told[c] > 1 for c in born), n=len(born), unit="deaths", aim=("<=", 0)),
    ]  # fmt: skip


def cost(bench: Bench) -> list[Ratio]:
    """Cores that watching takes, the daemons' share included, against the guide's monitors."""
    found = []
    have: list[str] = []
    for count in (1, 10) if bench.quick else (1, 10, 50):
        fresh = [bench.container() for _ in range(count - len(have))]
        _together([partial(bench.start, None, c) for c in fresh])
        have += fresh
        pairs = spending.compare(bench.pen, have, bench.on_event, rounds=2 if bench.quick else 6)
        found.append(
            paired(
                f"cost: {count} containers", pairs, competitor="the guide's monitors", unit="cores",
                aim=(">=", 20),
            )
        )  # fmt: skip
    bench.remove(None, *have)
    return found


def perturbation(bench: Bench) -> list[Ratio]:
    """What watching does to what is watched: monitors off, light and full, interleaved."""
    return workloads.compare(
        bench, rounds=4 if bench.quick else 40, budget=90 if bench.quick else 420
    )


def _together(jobs: list[Callable[[], Any]], width: int = 8) -> None:
    """Side by side, a few at a time; the first failure is raised."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(width) as pool:
        for job in [pool.submit(job) for job in jobs]:
            job.result()


_PARTS: dict[str, Callable[[Bench], list[Ratio]]] = {
    "detection": detection, "missed": missed, "cost": cost, "perturbation": perturbation,
}  # fmt: skip
