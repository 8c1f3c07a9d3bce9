"""Every way in which mounts change, and everything else an experiment may say, on a real pen."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

from harness import attribution, history
from harness import events as e
from harness.model.experiment import ContainerSpec
from harness.model.verdicts import Outcome

sys.path.insert(0, str(Path(__file__).parent.parent))
from worlds import DEAF, LIVES, experiment, pen_world

pytestmark = pytest.mark.real

WRITES = "if touch /work/probe 2>/dev/null; then echo rw; else echo ro; fi; cat /work/name"


@pytest.fixture(scope="module")
def pen():
    with pen_world() as real:
        yield real


@pytest.fixture
def folders():
    """Two directories of the machine, each with its name in a file."""
    with tempfile.TemporaryDirectory(prefix="db-remount-") as place:
        made = []
        for name in ("one", "two"):
            folder = Path(place) / name
            folder.mkdir()
            (folder / "name").write_text(name)
            made.append(str(folder))
        yield made


def box(**more):
    return {"image": {"rootfs": "busybox"}, "command": LIVES, "network": "none", **more}


def with_mount(folder, remount, *, mode="rw", propagation=None, **more):
    mount = {"source": folder, "target": "/work", "mode": mode, "propagation": propagation}
    return experiment(
        container=box(mounts=(mount,)),
        remount=remount,
        pre_task={"run": WRITES},
        linger=0.0,
        **more,
    )


def judged(run):
    return attribution.judge(history.build(run.written.events), aborted=run.record.aborted)


def survived(run, pen):
    """It ran well to its end, left nothing, and its output."""
    assert run.record.aborted is None, run.record
    assert run.of(e.Note, what="failed") == []
    assert run.record.extra.get("trouble") is None
    assert judged(run).outcome is Outcome.SURVIVED
    assert pen.left() == []
    return run.record.exec["output"]


HOWS = ("recreate", "in-place")


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(("before", "after"), [("rw", "ro"), ("ro", "rw")])
def test_a_mount_changes_its_mode(pen, folders, how, before, after):
    """What the container may do there is what the remount says, and the source stays."""
    run = pen.trial(
        with_mount(folders[0], {"how": how, "target": "/work", "mode": after}, mode=before)
    )
    assert survived(run, pen) == f"{after}\none"


@pytest.mark.parametrize("how", HOWS)
def test_another_source_appears(pen, folders, how):
    """The same place shows another directory, read-only when asked for."""
    change = {"how": how, "target": "/work", "source": folders[1], "mode": "ro"}
    assert survived(pen.trial(with_mount(folders[0], change)), pen) == "ro\ntwo"


def test_in_place_leaves_the_main_process_alone(pen, folders):
    """No stop, no second main process: the mount changes under a running container."""
    change = {"how": "in-place", "target": "/work", "source": folders[1]}
    run = pen.trial(with_mount(folders[0], change))
    assert survived(run, pen) == "rw\ntwo"
    assert run.of(e.DeathSeen) == []
    assert len(run.of(e.ContainerRef)) == 1


@pytest.mark.parametrize("propagation", ["rslave", "rshared"])
def test_a_bind_on_the_machines_side_appears_under_propagation(pen, folders, propagation):
    """Nothing is done in the container: it hears of the mount through its propagation."""
    change = {"how": "propagate", "target": "/work", "source": folders[1]}
    run = pen.trial(with_mount(folders[0], change, propagation=propagation))
    assert survived(run, pen) == "rw\ntwo"
    assert run.of(e.DeathSeen) == []
    inside = pen.machine.root(("grep", "-c", folders[0], "/proc/self/mountinfo"))
    assert inside.out.strip() == b"0"  # what was shared for the trial is taken away again


def test_a_mount_that_was_there_before_is_there_afterwards(pen, folders):
    """Somebody's own disk stands where the source is: it is not taken away with ours."""
    pen.machine.root(("mount", "-t", "tmpfs", "own", folders[0]))
    try:
        change = {"how": "propagate", "target": "/work", "source": folders[1]}
        run = pen.trial(with_mount(folders[0], change, propagation="rslave"))
        assert survived(run, pen) == "rw\ntwo"
        there = pen.machine.root(("findmnt", "-n", "-o", "SOURCE", folders[0]))
        assert there.text.split() == ["own"]
    finally:
        pen.machine.root(("umount", folders[0]))


def test_without_propagation_nothing_appears(pen, folders):
    """The control: a private mount never hears of it."""
    made = with_mount(folders[0], {"how": "propagate", "target": "/work", "source": folders[1]},
                      propagation="rslave")  # fmt: skip
    private = made.container.mounts[0].model_copy(update={"propagation": "rprivate"})
    container = made.container.model_copy(update={"mounts": (private,)})
    run = pen.trial(made.model_copy(update={"container": container}))
    assert survived(run, pen) == "rw\none"


def test_a_remount_of_what_is_no_mount_fails_and_is_told(pen, folders):
    """The user's script would go on: the pre-task is asked for, the failure is in the history."""
    made = with_mount(folders[0], {"how": "in-place", "target": "/work", "mode": "ro"})
    remount = made.remount.model_copy(update={"target": "/nowhere"})
    run = pen.trial(made.model_copy(update={"remount": remount}))
    (note,) = run.of(e.Note, what="failed")
    assert "/nowhere" in note.data["why"]
    assert run.record.exec["output"] == "rw\none"
    assert pen.left() == []


# --- remount and exec at once -------------------------------------------------------------


def overlap(folder, how, seconds, command=LIVES):
    made = with_mount(
        folder,
        {"how": how, "target": "/work", "stop_timeout": 1.0},
        delay={"after": "remount-start", "for": seconds},
    )
    container = made.container.model_copy(update={"command": command})
    return made.model_copy(update={"container": container, "linger": 0.2})


@pytest.mark.parametrize("how", ["recreate", "restart"])
def test_an_exec_asked_for_inside_the_remount_is_a_race(pen, folders, how):
    """The stop is ours, the refusal is the engine's: died, of race."""
    run = pen.trial(overlap(folders[0], how, 0.5, DEAF))
    assert abs(run.record.delay_happened - 0.5) < 0.02
    verdict = judged(run)
    assert verdict.outcome in {Outcome.DIED, Outcome.SURVIVED}
    met = run.record.exec["exit_code"] != 0 or run.record.exec["status"]
    assert (verdict.outcome is Outcome.DIED) is bool(met)
    if met:
        assert verdict.verdict.hypothesis.value == "race"
    assert pen.left() == []


def test_a_negative_delay_asks_for_the_exec_first(pen, folders):
    """The exec's request lies before the remount's beginning, by what was asked."""
    run = pen.trial(overlap(folders[0], "restart", -0.3))
    (request,) = run.of(e.Exec, label="pre-task", edge="request")
    (begin,) = run.of(e.Phase, phase="remount", edge="begin")
    assert (begin.t - request.t) / 1e9 == pytest.approx(0.3, abs=0.02)
    assert run.record.delay_happened == pytest.approx(-0.3, abs=0.02)
    assert run.record.exec["exit_code"] == 0
    assert judged(run).outcome is Outcome.SURVIVED
    assert pen.left() == []


# --- containers beside it -----------------------------------------------------------------


def test_a_sidecar_in_the_subjects_namespaces_sees_it(pen):
    """Made after it: one network, one process table."""
    sidecar = {
        **box(), "name": "sidecar", "network": "container:main", "pid": "container:main",
        "command": ("sh", "-c", "hostname -i 2>/dev/null; ps | grep -c 'sleep 0.1' ; sleep 100"),
    }  # fmt: skip
    made = experiment(container=box(), beside=(sidecar,), pre_task={"run": "ps"}, linger=0.2)
    run = pen.trial(made)
    assert "sleep 100" in survived(run, pen)
    names = [x.name for x in run.of(e.ContainerRef)]
    assert names == ["main", "sidecar"]


def test_a_subject_in_a_sidecars_namespaces_sees_it(pen):
    """Made before it: the subject's process table has the sidecar's main process."""
    sidecar = {**box(), "name": "first", "command": ("sleep", "1234")}
    subject = box(network="container:first", pid="container:first")
    run = pen.trial(experiment(container=subject, beside=(sidecar,), pre_task={"run": "ps"}))
    assert "sleep 1234" in survived(run, pen)
    assert [x.name for x in run.of(e.ContainerRef)] == ["first", "main"]


# --- networks, volumes, scripts, hooks ------------------------------------------------------


def test_a_network_is_made_for_the_trial_and_reaches_its_containers(pen):
    """Any other word is a network: two containers on it know each other by address."""
    other = {**box(network="back"), "name": "other"}
    made = experiment(
        container=box(network="back"), beside=(other,),
        pre_task={"run": "ip -o -4 addr show | grep -c eth0"}, linger=0.0,
    )  # fmt: skip
    run = pen.trial(made)
    assert survived(run, pen) == "1\n"


def test_a_volume_belongs_to_the_trial_and_outlives_a_recreate(pen):
    """What set-up wrote there is found by the pre-task; the next trial starts from nothing."""
    mount = {"volume": "data", "target": "/data"}
    made = experiment(
        container=box(mounts=(mount,)), setup={"run": "test ! -e /data/x && echo 5 > /data/x"},
        remount={"how": "recreate", "target": "/data", "mode": "ro"},
        pre_task={"run": "cat /data/x; touch /data/y 2>/dev/null || echo ro"}, linger=0.0,
    )  # fmt: skip
    for _ in range(2):
        assert survived(pen.trial(made), pen) == "5\nro\n"


def test_scripts_get_their_arguments_environment_user_and_place(pen):
    """$1 and "$@" as written, env, user, workdir."""
    script = {
        "run": 'echo "$#:$1:$2:$WORD:$(id -un):$(pwd)"', "args": ("a b", "c"),
        "env": {"WORD": "x y"}, "user": "nobody", "workdir": "/tmp",
    }  # fmt: skip
    run = pen.trial(experiment(container=box(), pre_task=script, linger=0.0))
    assert survived(run, pen) == "2:a b:c:x y:nobody:/tmp\n"


def test_scripts_on_the_host_are_told_where_the_container_is(pen, tmp_path):
    """Set-up, pre-task and hooks outside: DOCKER_HOST and the container's id are theirs."""
    say = f'echo "{{}} $1 $DOCKER_HOST ${{{{#CONTAINER_ID}}}}" >> {tmp_path}/said'

    def host(word):
        return {"run": say.format(word), "args": ("x",), "on": "host"}

    made = experiment(
        container=box(), setup=host("setup"), pre_task=host("pre"), linger=0.0,
        before_trial=host("before"), after_trial=host("after"), delay={"for": 0.1},
    )  # fmt: skip
    run = pen.trial(made)
    assert run.record.aborted is None
    assert judged(run).outcome is Outcome.SURVIVED
    where = pen.machine.docker_host
    assert (tmp_path / "said").read_text().splitlines() == [
        f"before x {where} 0", f"setup x {where} 64", f"pre x {where} 64", f"after x {where} 64",
    ]  # fmt: skip
    assert run.record.delay_happened == pytest.approx(0.1, abs=0.02)
    assert pen.left() == []


# --- every key reaches the engine ---------------------------------------------------------

KEYS = {
    "memory": 64 << 20, "memory_swap": 64 << 20, "memory_reservation": 32 << 20,
    "oom_score_adj": 200, "cpus": 0.5, "cpu_shares": 512, "cpuset": "0", "pids": 77,
    "ulimits": {"nofile": {"soft": 100, "hard": 200}}, "tmpfs": {"/t": {"size": 1 << 20}},
    "shm_size": 2 << 20, "init": True, "restart": "on-failure:3", "user": "nobody",
    "workdir": "/tmp", "env": {"A": "b c"}, "ipc": "private", "cap_add": ("NET_ADMIN",),
    "security_opt": ("no-new-privileges",), "cap_drop": ("MKNOD",), "read_only": True,
    "cgroup_parent": "mine", "hostname": "box", "stop_timeout": 3.0, "stop_signal": "SIGUSR1",
    "labels": {"team": "red"}, "entrypoint": ("sh", "-c"), "command": ("sleep 1000",),
}  # fmt: skip


# Tested by their effect above, or (privileged, oom_kill_disable) with what they need.
ELSEWHERE = {"name", "image", "network", "pid", "mounts", "privileged", "oom_kill_disable"}


def test_every_key_of_a_container_reaches_the_engine(pen):
    """What the file says is what inspect says; a key left out is the engine's own."""
    assert set(KEYS) | ELSEWHERE == set(ContainerSpec.model_fields)
    made = experiment(container={"image": {"rootfs": "busybox"}, "network": "none", **KEYS})
    found = {}
    inspect = pen.engine.inspect

    def look(container, **options):
        answer = inspect(container, **options)
        if answer.value and answer.value["State"]["Running"]:
            found.update(answer.value)
        return answer

    pen.engine.inspect = look
    try:
        run = pen.trial(made)
    finally:
        del pen.engine.inspect
    assert run.record.aborted is None, run.record
    host, config = found["HostConfig"], found["Config"]
    assert {
        "Memory": 64 << 20, "MemorySwap": 64 << 20, "MemoryReservation": 32 << 20,
        "OomScoreAdj": 200, "NanoCpus": 500_000_000, "CpuShares": 512, "CpusetCpus": "0",
        "PidsLimit": 77, "ShmSize": 2 << 20, "Init": True, "IpcMode": "private",
        "CapAdd": ["NET_ADMIN"], "CapDrop": ["MKNOD"], "ReadonlyRootfs": True,
        "SecurityOpt": ["no-new-privileges"],
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
        "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}],
        "Tmpfs": {"/t": f"rw,size={1 << 20}"},
        "CgroupParent": f"{pen.machine.cgroup}/mine",
    }.items() <= _normal(host).items()  # fmt: skip
    assert {
        "User": "nobody", "WorkingDir": "/tmp", "Hostname": "box", "StopTimeout": 3,
        "StopSignal": "SIGUSR1", "Entrypoint": ["sh", "-c"], "Cmd": ["sleep 1000"],
    }.items() <= config.items()  # fmt: skip
    assert "A=b c" in config["Env"]
    assert config["Labels"]["team"] == "red"
    assert pen.left() == []


def _normal(host):
    """Capabilities with and without their prefix are the same to every engine."""
    names = {k: [c.removeprefix("CAP_") for c in host[k] or ()] for k in ("CapAdd", "CapDrop")}
    return _Comparable({**host, **names})


class _Comparable(dict):
    """A dictionary whose items can be compared although their values are lists."""

    def items(self):
        return _Items(super().items())


class _Items(list):
    def __ge__(self, other):
        mine = dict(self)
        different = {k: (v, mine.get(k)) for k, v in other if mine.get(k) != v}
        assert different == {}
        return True


# --- several at once, neighbours ------------------------------------------------------------


def test_neighbours_are_there_idle_or_busy_and_go(pen):
    """So many as wanted, not part of the trial, and none left behind."""
    from harness.model.experiment import Neighbours
    from harness.runner.bystanders import Bystanders

    def there():
        return pen.engine.ps(filters={"label": ["deathbench=neighbour"]}).need("ps")

    with Bystanders(pen.engine, pen.machine, Neighbours(count=2)) as around:
        run = pen.trial(experiment(container=box(), linger=0.0))
        assert judged(run).outcome is Outcome.SURVIVED
        idle = {row["Id"] for row in there()}
        assert len(idle) == 2
        around.want(Neighbours(count=3, busy=True))
        busy = {row["Id"]: row["Command"] for row in there()}
        assert len(busy) == 3
        assert not idle & set(busy)
        assert all("dd" in command for command in busy.values())
        around.want(Neighbours(count=1, busy=True))
        assert len(there()) == 1
        around.want(Neighbours(count=4, dying=True))
        restless = len([row for row in there() if "while" in row["Command"]])
        assert (len(there()), restless) == (4, min(4, os.cpu_count()))
        policies = {
            pen.engine.inspect(row["Id"]).need("it")["HostConfig"]["RestartPolicy"]["Name"]
            for row in there()
        }
        assert policies == {"always"}
    assert pen.left() == []
