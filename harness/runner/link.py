"""The harness's end of the probe: starts it, listens, times it, and notices its silence.

Rule: nothing is lost without a word. A probe that stops answering is a gap while it is
silent; a probe that dies is a gap, is started again and told again what to watch. The
link judges nothing and stores nothing: every event goes to one callback, in the order
it arrived, one at a time.
"""

from __future__ import annotations

import json
import os
import shlex
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from harness import clock, process
from harness.errors import EnvironmentInvalid
from harness.events import ClockJump, ClockLink, Event, Gap, Hello, Pong, SourceState, decode
from harness.runner.bundle import LOADER, opening

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.machine import ProbeSite

PING_EVERY = 1.0
SILENT_AFTER = 3 * clock.NS
"""Nothing heard for so long, though a ping was sent every second: the probe is blind to us."""
FROZEN = 50_000_000
"""A jump of the offset (ns) by more than its error: the machine's boottime stood still."""
FASTEST = 8
"""Of so many pings the fastest tells the offset: a slow round trip says little."""
RESTARTS = 5
"""So many new starts within a minute at once; further ones come slowly."""
SLOWLY = 5.0
MOST_RESTARTS = 60
"""After so many starts in all the machine has no probe any more."""


@dataclass(frozen=True, slots=True)
class LinkClock:
    """Machine boottime minus harness clock, ns, and how wrong that can be."""

    offset: int
    error: int

    def to_machine(self, harness: int) -> int:
        return harness + self.offset

    def to_harness(self, machine: int) -> int:
        return machine - self.offset


@dataclass(slots=True)
class _State:
    hello: Hello | None = None
    sources: dict[str, SourceState] = field(default_factory=dict)
    gaps: dict[str, Gap] = field(default_factory=dict)


class ProbeLink:
    """One probe on one machine, for the machine's life.

    `on_event` is called from the link's own threads, never twice at once; it must be
    quick and must not call back into the link.
    """

    def __init__(
        self,
        site: ProbeSite,
        *,
        monitors: str = "light",
        hz: float = 10,
        on_event: Callable[[Event], None],
    ) -> None:
        self.site = site
        # Not beside the engine: what this kernel says is about other processes.
        monitors = "off" if site.config.get("api_only") else monitors
        self.config: dict[str, Any] = {**site.config, "monitors": monitors, "hz": hz}
        self.restarts = 0
        self.undecodable = 0
        self._on_event = on_event
        self._child: process.Child | None = None
        self._stillborn = False
        self._stderr = b""
        self._state = _State()
        self._watching: dict[str, str] = {}
        self._lock = threading.RLock()
        self._saying = threading.Lock()
        self._answers: dict[int, threading.Event] = {}
        self._tokens = iter(range(1, 1 << 62))
        self._greeted = threading.Event()
        self._leaving = threading.Event()
        self._pings: list[LinkClock] = []
        self._clock: LinkClock | None = None
        self._heard = 0
        self._silent_since: int | None = None
        self._starts: list[int] = []
        self._lost: tuple[int, str] | None = None  # since when and why there is no probe
        self._threads: list[threading.Thread] = []

    # --- beginning and end ---

    def start(self, deadline: float | None = None) -> None:
        """Start the probe and wait for its Hello and its first clock.

        deadline: Seconds; None: what its site says.

        Raises:
            EnvironmentInvalid: it did not say hello in `deadline` seconds; the message has
                its last words. Nothing is left running.
        """
        deadline = self.site.patience if deadline is None else deadline
        end = clock.now() + int(deadline * clock.NS)
        self._leaving.clear()
        try:
            self._spawn()
        except OSError as error:
            raise _no_probe(self.site, f"{self.site.python[0]}: {error.strerror}") from error
        pinger = threading.Thread(target=self._keep_time, name="probe-ping", daemon=True)
        self._threads.append(pinger)
        pinger.start()
        heard = self._greeted.wait(max(0.0, (end - clock.now()) / clock.NS))
        left = max(0.1, (end - clock.now()) / clock.NS)
        if not heard or self._stillborn or not self.flush(left):
            words = self._stderr.decode(errors="backslashreplace").strip().splitlines()
            self.stop()
            said = words[-1] if words else "it said nothing"
            raise _no_probe(self.site, f"no hello within {deadline:g} s; {said}")

    def stop(self, grace: float = 5.0) -> None:
        """Order it to leave, take its last words (Cost), and wait. Safe to call twice."""
        self._leaving.set()
        self._greeted.set()  # whoever waits for a hello need not
        with self._lock:
            child, self._child = self._child, None
        if child is None:
            return
        child.end_of_input()
        if not child.wait(grace):
            child.popen.terminate()
            if not child.wait(grace):
                process.kill_session(child.popen)
                child.wait(grace)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(grace)
        self._threads.clear()

    def __enter__(self) -> Self:
        if not self.alive:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- what the runner asks ---

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.alive

    @property
    def clock(self) -> LinkClock | None:
        """The best offset known now; None before the first answered ping."""
        return self._clock

    def watch(self, container: str, *, role: str = "subject") -> None:
        """Announce a container (its full id), after create and before start."""
        with self._lock:
            self._watching[container] = role
        self._send({"do": "watch", "container": container, "role": role})

    def unwatch(self, container: str) -> None:
        with self._lock:
            self._watching.pop(container, None)
        self._send({"do": "unwatch", "container": container})

    def snapshot(self, container: str | None = None) -> None:
        """Have everything known about it said again, whole: for the head of a history."""
        self._send({"do": "snapshot", "container": container})

    def follow_all(self, everything: bool = True) -> None:
        """Send the engine's events of all containers, not of the watched alone."""
        self._send({"do": "docker", "all": everything})

    def monitors(self, level: str) -> None:
        """light or full, while running."""
        self.config["monitors"] = level
        self._send({"do": "monitors", "level": level})

    def mark(self) -> int:
        """Ask for a mark; its Pong (what="flush", this token) follows all that was readable now."""
        token = next(self._tokens)
        self._send({"do": "flush", "token": token})
        return token

    def flush(self, deadline: float) -> bool:
        """True when everything the sources held at this call has been handed to `on_event`."""
        arrived = threading.Event()
        token = next(self._tokens)
        with self._lock:
            self._answers[token] = arrived
        try:
            return self._send({"do": "flush", "token": token}) and arrived.wait(deadline)
        finally:
            with self._lock:
                self._answers.pop(token, None)

    def cost(self) -> None:
        """Ask for a Cost event now."""
        self._send({"do": "cost"})

    def states(self) -> list[Event]:
        """The current Hello, sources, open gaps and the clocks' offset: a history's head.

        A trial can be over between two pings; nothing of the harness's own would have a
        place on the machine's clock then.
        """
        with self._lock:
            head: list[Event] = [self._state.hello] if self._state.hello else []
            head += [*self._state.sources.values(), *self._state.gaps.values()]
        known = self._clock
        if known is not None:
            now = clock.now()
            head.append(_clock_link(now, known))
        return head

    # --- talking ---

    def _send(self, command: dict[str, Any]) -> bool:
        """False when nobody is there; the reader notices that and starts a new one."""
        line = json.dumps(command).encode() + b"\n"
        with self._lock:
            child = self._child
            if child is None or child.popen.stdin is None:
                return False
            try:
                child.popen.stdin.write(line)
                child.popen.stdin.flush()
            except (OSError, ValueError):
                return False
        return True

    def _spawn(self) -> None:
        loader = shlex.quote(LOADER) if self.site.config.get("quote") else LOADER
        with self._lock:
            self._greeted.clear()
            self._stderr = b""
            import subprocess

            child = process.spawn((*self.site.python, "-c", loader), stderr=subprocess.PIPE)
            self._child = child
            self._starts.append(clock.now())
            try:
                assert child.popen.stdin is not None
                child.popen.stdin.write(opening(self.config))
                for container, role in self._watching.items():
                    self._send({"do": "watch", "container": container, "role": role})
                child.popen.stdin.flush()
            except (OSError, ValueError):
                pass  # it died at once: the reader sees the end and has its last words
            self._heard = clock.now()
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        overhearing = threading.Thread(
            target=self._overhear, args=(child,), name="probe-stderr", daemon=True
        )
        listening = threading.Thread(
            target=self._listen, args=(child, overhearing), name="probe", daemon=True
        )
        self._threads += (overhearing, listening)
        overhearing.start()
        listening.start()

    # --- listening ---

    def _listen(self, child: process.Child, overhearing: threading.Thread) -> None:
        assert child.popen.stdout is not None
        clock.ahead()
        for line in child.popen.stdout:
            event = decode(line)
            if event is None:
                self.undecodable += 1
                now = clock.now()
                self._say(_gap("link", now, now, "a line that is no event", lost=1))
                continue
            self._hear(event)
        child.popen.stdout.close()
        overhearing.join(1)
        self._ended(child)

    def _overhear(self, child: process.Child) -> None:
        """Its standard error: nothing while all is well, a traceback when it dies."""
        assert child.popen.stderr is not None
        for line in child.popen.stderr:
            self._stderr = (self._stderr + line)[-8192:]
        child.popen.stderr.close()

    def _hear(self, event: Event) -> None:
        now = clock.now()
        answered: threading.Event | None = None
        with self._lock:
            self._heard = now
            silent, self._silent_since = self._silent_since, None
            lost: tuple[int, str] | None = None
            if isinstance(event, Hello):
                lost, self._lost = self._lost, None
                if self._state.hello is not None and self._state.hello.boot_id != event.boot_id:
                    # The clock of another boot: it has nothing to do with the last one's.
                    self._clock = None
                    self._pings.clear()
                self._state = _State(hello=event)
                self._greeted.set()
            elif isinstance(event, SourceState):
                self._state.sources[event.name] = event
            elif isinstance(event, Gap):
                if event.end is None:
                    self._state.gaps[event.name] = event
                else:
                    self._state.gaps.pop(event.name, None)
            elif isinstance(event, Pong) and event.what == "flush":
                answered = self._answers.get(event.token)
        if lost is not None:
            begin = lost[0] if silent is None else min(lost[0], silent)
            self._keep(_gap("probe", begin, now, f"{lost[1]}; started again"))
        elif silent is not None:
            self._keep(_gap("probe", silent, now, "the probe did not answer"))
        self._say(event)
        if answered is not None:
            answered.set()
        if isinstance(event, Pong) and event.what == "ping":
            self._timed(event, now)

    def _say(self, event: Event) -> None:
        with self._saying:
            self._on_event(event)

    # --- time ---

    def _keep_time(self) -> None:
        """Ping every second; say it when nothing comes back."""
        clock.ahead()
        while not self._leaving.wait(PING_EVERY if self._clock else 0.05):
            now = clock.now()
            if not self._greeted.is_set():
                continue  # a slow machine is still reading us in: pings would only queue up
            self._send({"do": "ping", "token": now})
            with self._lock:
                begin = self._heard
                quiet = (
                    self._child is not None
                    and self._greeted.is_set()
                    and now - begin > SILENT_AFTER
                    and self._silent_since is None
                )
                if quiet:
                    self._silent_since = begin
            if quiet:
                self._keep(_gap("probe", begin, None, "the probe does not answer"))

    def _timed(self, pong: Pong, now: int) -> None:
        sent = pong.token
        error = (now - sent) // 2
        reading = LinkClock(pong.t - (sent + error), error)
        last = self._clock
        if last is not None and abs(reading.offset - last.offset) > reading.error + last.error:
            # The clocks moved against each other (one side was frozen or slept): what was
            # measured before says nothing any more.
            self._pings.clear()
            step = reading.offset - last.offset
            if abs(step) > FROZEN + reading.error + last.error:
                self._say(
                    ClockJump(
                        t=now, seen=now, source="link", clock="harness", which="freeze", by=-step
                    )
                )  # fmt: skip
        self._pings = [*self._pings, reading][-FASTEST:]
        self._clock = min(self._pings, key=lambda ping: ping.error)
        self._say(_clock_link(now, reading))

    # --- its death ---

    def _ended(self, child: process.Child) -> None:
        if self._leaving.is_set():
            return
        begin = clock.now()
        child.end_of_input()
        child.wait(5)
        words = self._stderr.decode(errors="backslashreplace").strip().splitlines()
        why = f"the probe ended ({child.code}); {words[-1] if words else 'no last words'}"
        if self._state.hello is None:
            # It never said hello: it will not the next time either.
            self._stillborn = True
            self._greeted.set()
            return
        with self._lock:
            open_gap = self._state.gaps.get("probe")
            self._state = _State(hello=self._state.hello)
            self._pings.clear()
            first, self._lost = self._lost is None, self._lost or (begin, why)
            if open_gap is not None:
                self._state.gaps["probe"] = open_gap
        if first:
            self._keep(_gap("probe", begin, None, why))
        while not self._leaving.is_set():
            now = clock.now()
            recent = [t for t in self._starts if now - t < 60 * clock.NS]
            # Perhaps the machine is booting: the gap stays open, and we ask again.
            if len(recent) > RESTARTS and (
                len(self._starts) > MOST_RESTARTS or self._leaving.wait(SLOWLY)
            ):
                return
            self.restarts += 1
            try:
                self._spawn()
            except OSError:
                if self._leaving.wait(1.0):
                    return
                continue
            return  # its Hello ends the gap; its own end comes here again

    def _keep(self, gap: Gap) -> None:
        with self._lock:
            if gap.end is None:
                self._state.gaps[gap.name] = gap
            else:
                self._state.gaps.pop(gap.name, None)
        self._say(gap)


def clear_instances(
    site: ProbeSite, prefix: str, *, dry: bool = False, deadline: float = 30.0
) -> list[str]:
    """Remove (dry: only find) tracing instances that dead probes left on this machine; their names.

    Only instances whose name begins with `prefix` and whose probe is gone. They are found
    even where tracefs is mounted nowhere: an instance lives in the kernel, not in a mount.
    """
    loader = shlex.quote(LOADER) if site.config.get("quote") else LOADER
    config = {"mode": "clean", "label": prefix, "dry": dry}
    result = process.run((*site.python, "-c", loader), deadline=deadline, stdin=opening(config))
    if not result.ok:
        return []
    removed: list[str] = json.loads(result.text)["removed"]
    return removed


def _clock_link(now: int, reading: LinkClock) -> ClockLink:
    return ClockLink(
        t=now, seen=now, source="link", clock="harness", offset=reading.offset, error=reading.error
    )


def _gap(name: str, begin: int, end: int | None, why: str, lost: int | None = None) -> Gap:
    now = clock.now()
    return Gap(
        t=now, seen=now, source="link", clock="harness",
        name=name, begin=begin, end=end, why=why, lost=lost,
    )  # fmt: skip


def _no_probe(site: ProbeSite, why: str) -> EnvironmentInvalid:
    return EnvironmentInvalid(f"the probe does not run ({os.path.basename(site.python[0])}): {why}")
