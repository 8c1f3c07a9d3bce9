"""Every failure that can be asked for really happens, and is gone when the trial is over."""

from __future__ import annotations

import json
import os
import time
from types import SimpleNamespace

import pytest

from harness import clock
from harness.errors import BadInput
from harness.inject import TABLE, CouldNot, Injector, refuse
from harness.inject.scene import Scene
from harness.machine.pen import Pen
from harness.model.experiment import ACTIONS, Injection

pytestmark = pytest.mark.real

BUSYBOX = SimpleNamespace(rootfs="busybox", ref=None, build=None)
IDLE = ["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"]


@pytest.fixture(scope="module")
def pen():
    with Pen(memory=1 << 30, cpus=2, disk=512 << 20, inodes=9000, pids=600) as made:
        yield made


@pytest.fixture
def subject(client, image, tmp_path):
    """A running container with a bind, a tmpfs and limits; a trial's worth of it."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work/file").write_text("kept")
    body = {
        "Image": image,
        "Cmd": IDLE,
        "HostConfig": {
            "Binds": [f"{tmp_path}/work:/work"],
            "Tmpfs": {"/scratch": "size=4m"},
            "Memory": 128 << 20,
            "MemorySwap": 128 << 20,
            "PidsLimit": 60,
        },
    }
    made = client.create(None, body).need("create")
    client.start(made).need("start")
    yield made
    client.remove(made)


@pytest.fixture
def scene(pen, subject):
    made = Scene(pen, lambda name: subject, {"deathbench": "test"})
    yield made
    assert made.finish() == []


def do(scene, what, **settings):
    settings.setdefault("at", "delay")
    if "seconds" in settings:
        settings["for"] = settings.pop("seconds")
    return TABLE[what](scene, Injection.model_validate({"what": what, **settings}))


def state(client, container):
    return client.inspect(container).need("inspect")["State"]


def ended(client, container, deadline=10):
    clock.wait_until(
        lambda: state(client, container)["Status"] == "exited", deadline=deadline, every=0.02
    )
    return state(client, container)


def inside(client, container, script):
    made = client.exec_create(container, ["sh", "-c", script]).need("exec")
    out, err = client.exec_start(made, deadline=10).need("start")
    return (out + err).decode()


def test_the_table_has_a_row_for_every_action():
    """What an experiment may ask for can be done, and nothing else stands in the table."""
    assert set(TABLE) == set(ACTIONS)


@pytest.mark.parametrize(
    ("sender", "name", "code"),
    [
        ("host", "KILL", 137),
        ("host", "SIGTERM", 3),
        ("sibling", "KILL", 137),
        ("inside", "TERM", 3),
    ],
)
def test_signals(scene, client, subject, sender, name, code):
    """From the machine, from a sibling and from inside; a handler is heard."""
    do(scene, "signal", sender=sender, signal=name)
    assert ended(client, subject)["ExitCode"] == code


@pytest.mark.parametrize(
    ("what", "settings", "code"),
    [("docker-kill", {}, 137), ("docker-stop", {"seconds": 5}, 3), ("shim-kill", {}, None)],
)
def test_ends_by_request(scene, client, subject, what, settings, code):
    """Another client's kill and stop, and a shim that dies."""
    do(scene, what, **settings)
    found = ended(client, subject, 20)
    assert found["Status"] == "exited"
    assert code is None or found["ExitCode"] == code


def test_docker_rm(scene, client, subject):
    """The container is gone for good."""
    do(scene, "docker-rm")
    assert client.inspect(subject).http == 404


def test_restart_pause_update(scene, client, subject):
    """Requests after which it lives on: another pid, a pause that ends, another limit."""
    before = state(client, subject)["Pid"]
    do(scene, "docker-restart", seconds=2)
    assert state(client, subject)["Pid"] not in (0, before)
    do(scene, "docker-pause", seconds=0.2)
    assert state(client, subject)["Paused"]
    assert clock.wait_until(lambda: not state(client, subject)["Paused"], deadline=5, every=0.02)
    do(scene, "docker-update", size="64MiB")
    assert client.inspect(subject).need("inspect")["HostConfig"]["Memory"] == 64 << 20


def test_networks(scene, client, subject):
    """A deleted link and a network taken away leave the loopback alone."""
    assert "eth0" in inside(client, subject, "ip -o link")
    do(scene, "delete-veth")
    assert "eth0" not in inside(client, subject, "ip -o link")
    assert do(scene, "network-disconnect") == {"networks": ["bridge"]}
    with pytest.raises(CouldNot, match="no network"):
        do(scene, "network-disconnect")


def test_disk_and_inodes(scene, client, subject, pen):
    """The machine's disk runs full, then out of inodes, and has room again when undone."""
    said = do(scene, "fill-disk")
    assert said["taken"] > 100 << 20
    assert "No space left" in inside(client, subject, "dd if=/dev/zero of=/big bs=1M count=2")
    assert scene.finish() == []
    assert "No space" not in inside(client, subject, "dd if=/dev/zero of=/big bs=1M count=2")
    said = do(scene, "fill-inodes")
    assert said["count"] > 1000
    assert "No space left" in inside(client, subject, "echo x > /one-more")


def test_tmpfs(scene, client, subject):
    """The tmpfs is full for whoever writes next."""
    do(scene, "fill-tmpfs", target="/scratch")
    assert "No space left" in inside(client, subject, "echo x > /scratch/one-more")


def test_mounts(scene, client, subject):
    """A bind turns read-only, then it is detached."""
    do(scene, "remount-read-only", target="/work")
    assert "Read-only" in inside(client, subject, "echo x > /work/new")
    do(scene, "unmount-lazy", target="/work")
    assert " /work " not in inside(client, subject, "cat /proc/mounts")
    do(scene, "unmount", target="/scratch")
    assert " /scratch " not in inside(client, subject, "cat /proc/mounts")
    with pytest.raises(CouldNot, match="unmounting /scratch"):
        do(scene, "unmount", target="/scratch")


@pytest.mark.parametrize("what", ["delete-source", "replace-source"])
def test_sources_come_back(pen, client, subject, tmp_path, what):
    """The bind shows a deleted directory; afterwards the user's files are where they were."""
    scene = Scene(pen, lambda name: subject, {})
    os.chmod(tmp_path / "work", 0o711)
    do(scene, what, target="/work")
    assert "//deleted" in inside(client, subject, "cat /proc/self/mountinfo")
    assert (tmp_path / "work").exists() == (what == "replace-source")
    assert scene.finish() == []
    assert (tmp_path / "work/file").read_text() == "kept"
    assert os.stat(tmp_path / "work").st_mode & 0o777 == 0o711
    assert sorted(p.name for p in tmp_path.iterdir()) == ["work"]


def test_freeze(scene, client, subject):
    """The container stands still for a moment, unknown to the engine, and goes on."""
    said = do(scene, "freeze", seconds=0.3)
    text = scene.machine.root(("cat", said["file"])).text.strip()
    assert text in ("FROZEN", "FREEZING", "1")
    assert clock.wait_until(
        lambda: scene.machine.root(("cat", said["file"])).text.strip() in ("THAWED", "0"),
        deadline=5,
    )


@pytest.mark.parametrize("where", ["child", "sibling", "parent", "machine"])
def test_memory_hogs_and_cpu_hogs_begin_and_end(scene, client, subject, pen, where):
    """Memory and CPU are really taken where it was said, and given back."""

    def used():
        folder = pen._layout.of("memory", pen.cgroup)
        name = "memory.current" if pen._layout.version == 2 else "memory.usage_in_bytes"
        return int((folder / name).read_text())

    before = used()
    do(scene, "memory-hog", where=where, size="100MiB", seconds=30)
    assert clock.wait_until(lambda: used() > before + (80 << 20), deadline=15, every=0.05), (
        used() - before
    )
    do(scene, "cpu-hog", where=where, count=1, seconds=30)
    if where != "child":
        assert scene.finish() == []
        assert clock.wait_until(lambda: used() < before + (60 << 20), deadline=10, every=0.05)


def test_a_hog_in_a_child_meets_the_containers_limit(scene, client, subject):
    """More than the limit in a child of the container: the kernel kills there."""
    do(scene, "memory-hog", where="child", size="300MiB", seconds=30)

    def killed():
        groups = scene.machine.root(("cat", f"/proc/{scene.pid(subject)}/cgroup")).text
        path = next(
            line.split(":", 2)[2]
            for line in groups.splitlines()
            if "memory" in line or line.startswith("0::")
        )
        folder = scene.machine._layout.of("memory", path)
        name = "memory.events" if scene.machine._layout.version == 2 else "memory.oom_control"
        text = (folder / name).read_text()
        return "oom_kill 0" not in text and "oom_kill" in text

    assert clock.wait_until(killed, deadline=20, every=0.1)


def test_processes_and_files_run_out(scene, client, subject, pen):
    """The container's pids, the machine's pids, the main process's files: no more can be had."""
    do(scene, "files-exhaustion", where="child")
    pid = scene.pid(subject)
    limits = scene.machine.root(("cat", f"/proc/{pid}/limits")).text
    soft = int(next(line for line in limits.splitlines() if "open files" in line).split()[3])
    assert soft < 64
    do(scene, "pids-exhaustion", where="child")
    groups = scene.machine.root(("cat", f"/proc/{pid}/cgroup")).text
    path = next(
        line.split(":", 2)[2]
        for line in groups.splitlines()
        if "pids" in line or line.startswith("0::/d")
    )
    folder = pen._layout.of("pids", path)
    most = int((folder / "pids.max").read_text())
    assert clock.wait_until(
        lambda: int((folder / "pids.current").read_text()) >= most - 1, deadline=15, every=0.05
    )
    do(scene, "pids-exhaustion", where="machine", seconds=60)
    top = pen._layout.of("pids", pen.cgroup)
    assert clock.wait_until(
        lambda: int((top / "pids.current").read_text()) >= 599, deadline=15, every=0.05
    )
    assert scene.finish() == []
    assert clock.wait_until(
        lambda: int((top / "pids.current").read_text()) < 300, deadline=15, every=0.05
    )


def test_pids_of_the_machine_need_a_limit():
    """Without a limit the whole host would run out: refused in words."""
    with Pen(memory=512 << 20, disk=1 << 30) as one:
        scene = Scene(one, lambda name: "", {})
        with pytest.raises(CouldNot, match="no limit on processes"):
            do(scene, "pids-exhaustion", where="machine")
        assert scene.finish() == []


def test_daemons_hang_and_come_back(pen, client, scene):
    """A hung and a killed daemon are there again when the trial is over, asked for or not."""
    do(scene, "dockerd-hang", seconds=0.5)
    assert client.ping(deadline=0.2).failure is not None
    assert clock.wait_until(lambda: client.ping(deadline=1).ok, deadline=10)
    do(scene, "dockerd-kill")
    assert client.ping(deadline=1).absent
    assert scene.finish() == []
    assert client.ping().ok
    do(scene, "containerd-restart")
    assert clock.wait_until(lambda: client.info(deadline=2).ok, deadline=20)


def test_a_command_of_the_users(scene):
    """Any command as root on the machine, its code and words noted."""
    said = do(scene, "command", run=("sh", "-c", "echo hello; exit 7"))
    assert (said["code"], said["out"]) == (7, "hello\n")


def test_the_injector_keeps_its_instants(pen, client, subject):
    """What hangs on a phase happens after its offset, is told once, and not at all when the trial was over."""
    told = []
    wanted = [
        Injection.model_validate({"at": "delay", "after": "150ms", "what": "docker-kill"}),
        Injection.model_validate({"at": "delay", "after": "60s", "what": "docker-rm"}),
        Injection.model_validate({"at": "linger", "what": "unmount", "target": "/nowhere"}),
    ]
    injector = Injector(pen, wanted, container_of=lambda name: subject, labels={}, tell=told.append)
    begin = clock.now()
    injector.phase("delay", began=begin)
    assert clock.wait_until(lambda: bool(told), deadline=10)
    injector.phase("linger")
    assert clock.wait_until(lambda: len(told) == 2, deadline=10)
    started = time.monotonic()
    assert injector.finish() == []
    assert time.monotonic() - started < 5
    first, second = told
    assert first.why == "" and 0 <= first.began - begin - 150_000_000 < 100_000_000
    assert "no main process" in second.why
    json.dumps([t.document() for t in told])
    assert client.inspect(subject).ok, "docker-rm was 60 s away"


def test_what_is_not_ours_is_not_broken():
    """A host's engine only with own: true; a clock only in a VM; all refusals at once."""
    kill = Injection.model_validate({"at": "delay", "what": "docker-kill"})
    cut = Injection.model_validate({"at": "delay", "what": "power-cut"})
    with pytest.raises(BadInput) as refused:
        refuse([kill, cut], kind="host", own=False)
    assert len(refused.value.problems) == 3
    refuse([kill], kind="host", own=True)
    refuse([kill], kind="pen", own=False)
    refuse([kill, cut], kind="vm", own=False)
