"""One whole trial on a machine that is there, with something done to it in the middle.

What the runner does in a sweep, without a campaign around it: events stay in memory, and the
judge sees them as it would from the disk.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace

from harness import engine, events, history, images
from harness.attribution import judge
from harness.matrix import plan
from harness.runner.link import ProbeLink
from harness.runner.trial import Trial
from harness.spec import load_experiment

BUSYBOX = SimpleNamespace(rootfs="busybox", ref=None, build=None)
DEADLINES = "deadlines: {start: 240s, create: 120s, post_mortem: 60s, clean: 60s, trial: 600s}\n"


class Feed:
    """Hands what a link says to the trial that runs."""

    def __init__(self):
        self.trial = None

    def __call__(self, event):
        if self.trial is not None:
            self.trial.take(event)


class Kept:
    """A trial's events; `act` is called with this, in a thread, when the pre-task begins."""

    def __init__(self, act):
        self.events, self._act, self.subject = [], act, None

    def add(self, event):
        event = events.numbered(event, len(self.events) + 1)
        self.events.append(event)
        if event.kind == "container" and event.role == "subject":
            self.subject = event.container
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
        self.machine, self._folder, self._feed = machine, folder, Feed()

    def __enter__(self):
        self.link = ProbeLink(self.machine.probe_site(), on_event=self._feed)
        self.link.start()
        self.client = engine.connect(self.machine.docker_host, deadline=120)
        images.ensure(self.client, BUSYBOX, machine=self.machine)
        return self

    def __exit__(self, *_):
        self.client.close()
        self.link.stop()

    def trial(self, act=None, *, pre_task="sleep 3", timeout="60s"):
        """(events, judgement) of a container that sleeps, and of what `act(kept)` does to it."""
        path = self._folder / "drill.yaml"
        path.write_text(
            "name: drill\ncontainer:\n  image: {rootfs: busybox}\n  network: none\n"
            "  command: [sleep, '1000']\n"
            f"pre_task: {{run: '{pre_task}', timeout: {timeout}}}\nlinger: 1s\n{DEADLINES}"
        )
        (spec, *_) = plan(load_experiment(path), 0)
        kept = Kept(act)
        self._feed.trial = Trial(
            spec, machine=self.machine, engine=self.client, link=self.link, writer=kept
        )
        try:
            record = self._feed.trial.run()
        finally:
            self._feed.trial = None
        return kept.events, judge(history.build(kept.events), aborted=record.aborted)
