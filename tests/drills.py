"""One whole trial on a machine that is there, with something done to it in the middle.

What the runner does in a sweep, without a campaign around it: events stay in memory, and the
judge sees them as it would from the disk.
"""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

from harness import engine, events, history, images
from harness.attribution import judge
from harness.matrix import plan
from harness.runner.link import ProbeLink
from harness.runner.trial import Trial
from harness.spec import load_experiment

BUSYBOX = SimpleNamespace(rootfs="busybox", ref=None, build=None)
SLEEPS = ("command: [sleep, '1000']",)
DEADLINES = "deadlines: {start: 240s, create: 120s, post_mortem: 60s, clean: 120s, trial: 900s}\n"


class Heard:
    """Everything a link has said; passed on to the trial that runs, if one does."""

    def __init__(self):
        self.events, self.trial = [], None
        self.news = threading.Condition()

    def __call__(self, event):
        with self.news:
            self.events.append(event)
            self.news.notify_all()
        if self.trial is not None:
            self.trial.take(event)

    def wait(self, kind, deadline=90, where=lambda event: True, since=0):
        """The first event of this kind after so many others; fails when none comes."""
        end = time.monotonic() + deadline
        while True:
            with self.news:
                for event in self.events[since:]:
                    if isinstance(event, kind) and where(event):
                        return event
                left = end - time.monotonic()
                assert left > 0, f"no {kind.__name__} within {deadline} s"
                self.news.wait(min(left, 0.2))


class Kept:
    """A trial's events; `act` is called with this, in a thread, when the pre-task begins.

    subject, main: Its container and that one's main process, as far as is known by now.
    """

    def __init__(self, act):
        self.events, self._act = [], act
        self.subject = self.main = None

    def add(self, event):
        event = events.numbered(event, len(self.events) + 1)
        self.events.append(event)
        if event.kind == "container" and event.role == "subject":
            self.subject = event.container
        if event.kind == "main":
            self.main = event.pid
        begins = (event.kind, getattr(event, "phase", ""), getattr(event, "edge", ""))
        if self._act is not None and begins == ("phase", "pre-task", "begin"):
            threading.Thread(target=self._act, args=(self,), daemon=True).start()
        return event

    def text(self, *_):
        pass

    def close(self):
        return len(self.events), ""


class Drills:
    """Trials on one started machine, one after the other."""

    def __init__(self, machine, folder):
        self.machine, self._folder, self.heard = machine, folder, Heard()

    def __enter__(self):
        self.link = ProbeLink(self.machine.probe_site(), on_event=self.heard)
        self.link.start()
        self.client = engine.connect(self.machine.docker_host, deadline=120)
        images.ensure(self.client, BUSYBOX, machine=self.machine)
        return self

    def __exit__(self, *_):
        self.client.close()
        self.link.stop()

    def trial(self, act=None, *, container=SLEEPS, pre_task="sleep 3", timeout="60s", inject=()):
        """(events, judgement) of a container, and of what `act(kept)` does to it.

        container, inject: Lines of YAML below these keys.
        """
        path = self._folder / "drill.yaml"
        path.write_text(
            "name: drill\ncontainer:\n  image: {rootfs: busybox}\n  network: none\n"
            + "".join(f"  {line}\n" for line in container)
            + f"pre_task: {{run: '{pre_task}', timeout: {timeout}}}\nlinger: 1s\n{DEADLINES}"
            + ("inject:\n" if inject else "")
            + "".join(f"  - {{{one}}}\n" for one in inject)
        )
        (spec, *_) = plan(load_experiment(path), 0)
        kept = Kept(act)
        self.heard.trial = Trial(
            spec, machine=self.machine, engine=self.client, link=self.link, writer=kept
        )
        try:
            record = self.heard.trial.run()
        finally:
            self.heard.trial = None
        return kept.events, judge(history.build(kept.events), aborted=record.aborted)
