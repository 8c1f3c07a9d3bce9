"""`watch` on containers that it did not make, on an engine that it did not start."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import engine, images
from harness.machine.pen import Pen
from harness.model.container import ImageSpec

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.real


class Somebody:
    """A person with an engine and containers; knows nothing of deathbench."""

    def __init__(self, pen):
        self.engine = engine.connect(pen.docker_host)
        self.tag = images.ensure(self.engine, ImageSpec(rootfs="busybox"))

    def run(self, name, *command, labels=None, **host):
        body = {
            "Image": self.tag,
            "Cmd": list(command),
            "Labels": labels or {},
            "HostConfig": {"NetworkMode": "none", **host},
        }
        identity = self.engine.create(name, body).need("create")
        self.engine.start(identity).need("start")
        return identity


class Watch:
    """`watch --json` in a process of its own; its lines as they come."""

    def __init__(self, pen, folder, *arguments, context="", words=False):
        how = [] if words else ["--json"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "harness.verbs", "watch", *how, *arguments,
             "--context", context or pen.docker_host],
            env={**os.environ, "DEATHBENCH_ROOT": str(folder), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert "watching" in self.process.stderr.readline()

    def death(self):
        """The next death, as the verb prints it."""
        alarm = threading.Timer(60, self.process.kill)
        alarm.start()
        try:
            return json.loads(self.process.stdout.readline())
        finally:
            alarm.cancel()

    def end(self):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.communicate(timeout=30)
        finally:
            self.process.kill()
        return self.process.returncode


@pytest.fixture
def watching(pen, tmp_path):
    """Starts watches, and ends those that a failing test leaves behind."""
    started = []

    def start(*arguments, **how):
        started.append(Watch(pen, tmp_path, *arguments, **how))
        return started[-1]

    yield start
    for watch in started:
        if watch.process.poll() is None:
            watch.end()


@pytest.fixture(scope="module")
def pen():
    with Pen(memory=512 << 20) as started:
        yield started


def test_each_death_is_told_with_its_verdict_and_history(pen, watching):
    """A container that was there before and one that comes later; limit and kill told apart."""
    somebody = Somebody(pen)
    somebody.run("early", "sleep", "1000")
    watch = watching("--all")
    somebody.run("hog", "tail", "/dev/zero", Memory=16 << 20, MemorySwap=16 << 20)
    first = watch.death()
    # What a source did not see of the last two seconds counts against it: who has only just
    # begun to watch says `unknown`, and rightly.
    time.sleep(2.5)
    somebody.engine.kill("early").need("kill")
    second = watch.death()
    assert ("hog", "memory-limit-main") == (first["container"]["name"], first["verdict"]["cause"])
    assert ("early", "docker-kill") == (
        second["container"]["name"],
        second["verdict"]["cause"],
    ), second["verdict"]["sentence"]
    assert Path(second["history"]).is_file()
    assert 4 == watch.end()


def test_only_whom_it_was_told_to_watch(pen, watching):
    """Of two containers that die, the one with the label is told."""
    somebody = Somebody(pen)
    watch = watching("--label", "watched=yes")
    somebody.run("other", "sh", "-c", "exit 3")
    somebody.run("mine", "sh", "-c", "exit 4", labels={"watched": "yes"})
    told = watch.death()
    assert "mine" == told["container"]["name"]
    assert "process-exit" == told["verdict"]["hypothesis"]
    assert 4 == watch.end()


def test_it_survives_the_engines_restart(pen, watching):
    """The engine goes and comes back: its victim is told, and so is a later death."""
    somebody = Somebody(pen)
    # Init: obeys the engine's SIGTERM at once, where `sleep` alone would take ten seconds.
    somebody.run("victim", "sleep", "1000", Init=True)
    watch = watching("victim,later")
    time.sleep(2.5)
    pen.daemon("dockerd", "restart")
    first = watch.death()
    assert ("victim", "daemon") == (
        first["container"]["name"],
        first["verdict"]["hypothesis"],
    )
    somebody.run("later", "sh", "-c", "exit 5")
    assert "later" == watch.death()["container"]["name"]
    assert 4 == watch.end()


def test_a_compose_project_is_watched_whole(pen, watching):
    """Every service of the project and nobody else's, in words with citations and a history that is there."""
    somebody = Somebody(pen)
    watch = watching("--compose", "shop", words=True)
    key = "com.docker.compose.project"
    somebody.run("stranger", "sh", "-c", "exit 3", labels={key: "other"})
    for service in ("web", "db"):
        somebody.run(f"shop-{service}-1", "sh", "-c", "exit 4", labels={key: "shop"})
    told = {}
    for _ in range(2):
        head, sentence, cites, history = (watch.process.stdout.readline() for _ in range(4))
        told[head.split()[1]] = head
        assert "status 4" in sentence or "exit code 4" in sentence
        assert cites.strip().startswith("events ")
        assert Path(history.strip()).is_file()
    assert set(told) == {"shop-web-1", "shop-db-1"}
    assert 4 == watch.end()


def test_many_that_die_at_once_are_each_told_once(pen, watching):
    """Twenty killed one right after the other: twenty lines of JSON, a history each."""
    somebody = Somebody(pen)
    watch = watching("--label", "burst")
    with ThreadPoolExecutor(3) as pool:
        born = list(pool.map(
            lambda n: somebody.run(f"burst-{n}", "sleep", "1000", labels={"burst": ""}), range(20)
        ))  # fmt: skip
    for identity in born:
        assert somebody.engine.ask(lambda s, i=identity: s.kill(i)).ok
    told = [watch.death() for _ in born]
    assert Counter(d["container"]["id"] for d in told) == dict.fromkeys(born, 1)
    assert {d["outcome"] for d in told} == {"died"}
    assert all(Path(d["history"]).is_file() for d in told)
    assert {d["verdict"]["cause"] for d in told} <= {"docker-kill", "unknown"}
    for identity in born:
        somebody.engine.remove(identity, force=True)
    assert 4 == watch.end()


def test_a_reader_that_leaves_ends_it_without_a_word(pen, watching):
    """`watch --json | head -1`: the pipe is closed, the next death ends the watch, no traceback."""
    somebody = Somebody(pen)
    watch = watching("--all")
    somebody.run("first", "sh", "-c", "exit 3")
    assert "first" == watch.death()["container"]["name"]
    watch.process.stdout.close()
    somebody.run("second", "sh", "-c", "exit 3")
    watch.process.wait(60)
    with watch.process.stderr as said:
        assert "Traceback" not in said.read()
    assert watch.process.returncode in (0, 4)


def test_an_engine_over_ssh(pen, watching, sshd):
    """Its socket is behind an ssh server, and so is the probe: the same death, the same words."""
    somebody = Somebody(pen)
    watch = watching("--all", context=f"ssh://root@127.0.0.1:{sshd}{pen.socket}")
    somebody.run("far", "tail", "/dev/zero", Memory=16 << 20, MemorySwap=16 << 20)
    told = watch.death()
    assert ("far", "memory-limit-main") == (told["container"]["name"], told["verdict"]["cause"])
    assert 4 == watch.end()


def test_it_says_whom_it_can_watch(tmp_path):
    """Without a name, a label, a project or --all there is nobody to watch: one error, nothing started."""
    said = subprocess.run(
        [sys.executable, "-m", "harness.verbs", "watch", "--json"], capture_output=True, text=True,
        env={**os.environ, "DEATHBENCH_ROOT": str(tmp_path), "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert said.returncode == 1
    assert json.loads(said.stdout)["error"]["mend"].startswith("watch NAME")
    assert list(tmp_path.iterdir()) == []
