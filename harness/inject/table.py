"""Kind of failure → the function that causes it.

Rule: one row per key of `model.injection.ACTIONS`, no more and no less; a row causes what
its name says and returns what is worth noting. It decides nothing about the trial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.errors import EnvironmentInvalid
from harness.inject.scene import LASTING, CouldNot, Scene, needed

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.model.injection import Injection

    Row = Callable[[Scene, Injection], dict[str, Any] | None]


def _hit(scene: Scene, what: Injection) -> str:
    return scene.container_of(what.container)


# --- signals -----------------------------------------------------------------------


def _signal(scene: Scene, what: Injection) -> dict[str, Any] | None:
    name = what.signal or "KILL"
    container = _hit(scene, what)
    match what.sender or "host":
        case "host":
            return scene.hand("signal", pid=scene.pid(container), signal=name)
        case "sibling":
            # Only from a PID namespace above can a main process be killed: the machine's own.
            pid = scene.pid(container)
            made = scene.sibling(
                ["kill", "-s", name.removeprefix("SIG"), str(pid)],
                PidMode="host",
                NetworkMode="none",
            )
            return {"container": made}
        case "inside":
            argv = ["sh", "-c", f"kill -s {name.removeprefix('SIG')} 1"]
            ready = scene.client.prepare_exec(container, argv, deadline=10)
            ready.go()
            said = ready.wait()
            if said.failure is not None and said.failed_at == "create":
                raise CouldNot(str(said.failure))
            return {"exit_code": said.exit_code}


# --- requests of another client -------------------------------------------------------


def _kill(scene: Scene, what: Injection) -> None:
    name = what.signal or "KILL"
    needed(scene.client.kill(_hit(scene, what), signal=name))


def _stop(scene: Scene, what: Injection) -> None:
    needed(scene.client.stop(_hit(scene, what), grace=what.seconds, deadline=120))


def _rm(scene: Scene, what: Injection) -> None:
    needed(scene.client.remove(_hit(scene, what), volumes=False))


def _restart(scene: Scene, what: Injection) -> None:
    needed(scene.client.restart(_hit(scene, what), grace=what.seconds, deadline=120))


def _pause(scene: Scene, what: Injection) -> None:
    container = _hit(scene, what)
    undo = scene.undo("docker pause", lambda: scene.client.unpause(container))
    needed(scene.client.pause(container))
    if what.seconds is not None:
        scene.later(what.seconds, undo)


def _update(scene: Scene, what: Injection) -> None:
    needed(scene.client.update(_hit(scene, what), {"Memory": what.size, "MemorySwap": what.size}))


def _disconnect(scene: Scene, what: Injection) -> dict[str, Any]:
    container = _hit(scene, what)
    networks = list(scene.inspect(container)["NetworkSettings"].get("Networks") or {})
    if not networks:
        raise CouldNot("the container is on no network")
    for network in networks:
        needed(scene.client.network_disconnect(network, container, force=True))
    return {"networks": networks}


def _veth(scene: Scene, what: Injection) -> dict[str, Any]:
    return scene.hand("veth", pid=scene.pid(_hit(scene, what)))


# --- daemons -------------------------------------------------------------------------

_UNITS = {"dockerd": "docker", "containerd": "containerd"}


def _daemon(name: str, action: str) -> Row:
    def row(scene: Scene, what: Injection) -> None:
        if action == "restart":
            order(scene, name, "restart")
            return
        back = "resume" if action == "hang" else "start"
        undo = scene.undo(f"{name} {action}", lambda: order(scene, name, back))
        order(scene, name, action)
        if what.seconds is not None:
            scene.later(what.seconds, undo)

    return row


def order(scene: Scene, name: str, action: str) -> None:
    """The machine's own way where it has one, else systemd's."""
    own = getattr(scene.machine, "daemon", None)
    try:
        if own is not None:
            own(name, action)
            return
    except (EnvironmentInvalid, ProcessLookupError) as error:
        raise CouldNot(str(error)) from error
    unit = _UNITS[name]
    words = {
        "kill": ("systemctl", "kill", "-s", "KILL", unit),
        "hang": ("systemctl", "kill", "-s", "STOP", unit),
        "resume": ("systemctl", "kill", "-s", "CONT", unit),
        # A listening socket would start the daemon again at the next request.
        "stop": ("systemctl", "stop", unit, *(("docker.socket",) if unit == "docker" else ())),
        "start": ("systemctl", "start", unit),
        "restart": ("systemctl", "restart", unit),
    }
    result = scene.machine.root(words[action], deadline=90)
    if not result.ok:
        raise CouldNot(result.why())


def _shim(action: str) -> Row:
    def row(scene: Scene, what: Injection) -> dict[str, Any]:
        container = _hit(scene, what)
        name = "KILL" if action == "kill" else "STOP"
        if action == "hang":

            def resume() -> None:
                try:
                    scene.hand("shim", container=container, signal="CONT")
                except CouldNot:
                    return  # it is gone, and hangs no more

            undo = scene.undo("shim hang", resume)
            scene.later(what.seconds or 0, undo)
        return scene.hand("shim", container=container, signal=name)

    return row


# --- disks, mounts ---------------------------------------------------------------------


def _root(scene: Scene) -> str:
    return str(needed(scene.client.info())["DockerRootDir"])


def _fill_disk(scene: Scene, what: Injection) -> dict[str, Any]:
    folder = _root(scene)
    undo = scene.undo(
        "fill-disk", lambda: scene.hand("remove", path=f"{folder}/{scene.token}-fill")
    )
    said = scene.hand(
        "fill", folder=folder, name=f"{scene.token}-fill", free=what.free or 0, deadline=600
    )
    if what.seconds is not None:
        scene.later(what.seconds, undo)
    return said


def _fill_inodes(scene: Scene, what: Injection) -> dict[str, Any]:
    folder = _root(scene)
    undo = scene.undo(
        "fill-inodes",
        lambda: scene.hand("remove", path=f"{folder}/{scene.token}-inodes", deadline=300),
    )
    said = scene.hand(
        "inodes", folder=folder, name=f"{scene.token}-inodes", seconds=120, deadline=150
    )
    if what.seconds is not None:
        scene.later(what.seconds, undo)
    return said


_MOST_TMPFS = 1 << 30


def _fill_tmpfs(scene: Scene, what: Injection) -> dict[str, Any]:
    # Goes with the container. Without a size it would be half of the host's memory.
    return scene.hand(
        "fill", pid=scene.pid(_hit(scene, what)), folder=what.target, name=f"{scene.token}-fill",
        free=0, most=_MOST_TMPFS,
    )  # fmt: skip


def _unmount(*, lazy: bool) -> Row:
    def row(scene: Scene, what: Injection) -> dict[str, Any]:
        return scene.hand(
            "unmount", pid=scene.pid(_hit(scene, what)), target=what.target, lazy=lazy
        )

    return row


def _read_only(scene: Scene, what: Injection) -> dict[str, Any]:
    return scene.hand("read-only", pid=scene.pid(_hit(scene, what)), target=what.target)


def _source(*, replace: bool) -> Row:
    def row(scene: Scene, what: Injection) -> dict[str, Any]:
        mounts = scene.inspect(_hit(scene, what)).get("Mounts") or []
        sources = [
            str(m["Source"])
            for m in mounts
            if m.get("Destination") == what.target and m.get("Type") == "bind"
        ]
        if not sources:
            raise CouldNot(f"no bind mount at {what.target}")
        source = sources[0]
        aside = scene.aside(source)
        scene.undo(
            "the bind's source", lambda: scene.hand("give-source", source=source, aside=aside)
        )
        scene.hand("take-source", source=source, aside=aside, replace=replace)
        return {"source": source}

    return row


# --- freezing and loads ------------------------------------------------------------------


def _freeze(scene: Scene, what: Injection) -> dict[str, Any]:
    said = scene.hand("freeze", pid=scene.pid(_hit(scene, what)), on=True)
    undo = scene.undo("freeze", lambda: scene.hand("thaw", file=said["file"]))
    scene.later(what.seconds or 0, undo)
    return said


def _place(scene: Scene, what: Injection) -> dict[str, Any]:
    """Where a load of the machine's own hand stands: below the container's parent, or at the top."""
    if what.where == "parent":
        return {"pid": scene.pid(_hit(scene, what))}
    top = str(scene.machine.probe_site().config.get("cgroup") or "/")
    return {"cgroup": "" if top == "/" else top}


def _inside(scene: Scene, what: Injection, script: str) -> dict[str, Any]:
    """A shell in the container, started by another client; it lasts until it ends or the container does."""
    container = _hit(scene, what)
    made = needed(scene.client.exec_create(container, ["sh", "-c", script]))
    scene.client.ask(lambda sdk: sdk.exec_start(made, detach=True), name="inject-exec")
    return {"exec": made}


def _seconds(what: Injection) -> float:
    return LASTING if what.seconds is None else what.seconds


def _memory(scene: Scene, what: Injection) -> dict[str, Any] | None:
    size, seconds = int(what.size or 0), _seconds(what)
    # tail keeps what has no end of line yet: as much as head gives it.
    script = f"{{ head -c {size} /dev/zero; sleep {seconds:.0f}; }} | tail >/dev/null"
    match what.where:
        case "child":
            return _inside(scene, what, script)
        case "sibling":
            return {"container": scene.sibling(["sh", "-c", script], **_parent_of(scene, what))}
        case _:
            scene.load("memory", _place(scene, what), seconds=seconds, size=size)
            return None


def _parent_of(scene: Scene, what: Injection) -> dict[str, Any]:
    parent = scene.inspect(_hit(scene, what))["HostConfig"].get("CgroupParent")
    return {"CgroupParent": parent} if parent else {}


def _cpu(scene: Scene, what: Injection) -> dict[str, Any] | None:
    count, seconds = what.count or 1, _seconds(what)
    loops = "while :; do :; done & " * count
    script = f"{loops} sleep {seconds:.0f}; kill $(jobs -p)"
    match what.where:
        case "child":
            return _inside(scene, what, script)
        case "sibling":
            return {"container": scene.sibling(["sh", "-c", script], **_parent_of(scene, what))}
        case _:
            scene.load("cpu", _place(scene, what), seconds=seconds, count=count)
            return None


def _pids(scene: Scene, what: Injection) -> dict[str, Any] | None:
    seconds = _seconds(what)
    script = f"while sleep {seconds:.0f} & do :; done"
    match what.where:
        case "child":
            limit = scene.inspect(_hit(scene, what))["HostConfig"].get("PidsLimit")
            if not limit or limit < 0:
                raise CouldNot("the container has no pids limit: it would take the machine down")
            return _inside(scene, what, script)
        case "sibling":
            raise CouldNot(
                "a sibling's processes do not count against the container: parent, machine"
            )
        case _:
            scene.load("pids", _place(scene, what), seconds=seconds)
            return None


def _files(scene: Scene, what: Injection) -> dict[str, Any]:
    """A process that may open no more: the main process, or (machine) dockerd."""
    match what.where:
        case "child":
            pid = scene.pid(_hit(scene, what))
        case "machine":
            pid = _dockerd(scene)
        case _:
            raise CouldNot(
                "open files are counted per process: child (the main process) or machine (dockerd)"
            )
    said = scene.hand("files", pid=pid)
    undo = scene.undo("open files", lambda: scene.hand("files", pid=pid, soft=said["soft"]))
    if what.seconds is not None:
        scene.later(what.seconds, undo)
    return said


def _dockerd(scene: Scene) -> int:
    result = scene.machine.root(
        (
            "sh",
            "-c",
            'for p in /proc/[0-9]*; do read -r n < $p/comm; [ "$n" = dockerd ] && echo ${p#/proc/}; done; :',
        )
    )
    found = result.text.split()
    if not found:
        raise CouldNot("no dockerd runs on the machine")
    return int(found[0])


# --- the machine itself -----------------------------------------------------------------


def _clock_step(scene: Scene, what: Injection) -> None:
    step = float(what.step or 0)
    scene.undo("clock step", lambda: scene.hand("clock", step=-step))
    scene.hand("clock", step=step)


def _power_cut(scene: Scene, what: Injection) -> None:
    cut = getattr(scene.machine, "power_cut", None)
    if cut is None:
        raise CouldNot(f"a {scene.machine.kind} has no power to cut")
    cut()


def _suspend(scene: Scene, what: Injection) -> None:
    machine: Any = scene.machine
    if getattr(machine, "freeze", None) is None:
        raise CouldNot(f"a {scene.machine.kind} does not stand still by itself")
    undo = scene.undo("suspend", machine.thaw)
    machine.freeze()
    scene.later(what.seconds or 0, undo)


def _command(scene: Scene, what: Injection) -> dict[str, Any]:
    result = scene.machine.root(tuple(what.run or ()), deadline=what.seconds or 60.0)
    return {
        "code": result.code,
        "out": result.text[-2000:],
        "err": result.err.decode(errors="replace")[-2000:],
    }


TABLE: dict[str, Row] = {
    "signal": _signal,
    "docker-kill": _kill,
    "docker-stop": _stop,
    "docker-rm": _rm,
    "docker-pause": _pause,
    "docker-restart": _restart,
    "docker-update": _update,
    "network-disconnect": _disconnect,
    "delete-veth": _veth,
    "dockerd-kill": _daemon("dockerd", "kill"),
    "dockerd-stop": _daemon("dockerd", "stop"),
    "dockerd-hang": _daemon("dockerd", "hang"),
    "dockerd-restart": _daemon("dockerd", "restart"),
    "containerd-kill": _daemon("containerd", "kill"),
    "containerd-stop": _daemon("containerd", "stop"),
    "containerd-hang": _daemon("containerd", "hang"),
    "containerd-restart": _daemon("containerd", "restart"),
    "shim-kill": _shim("kill"),
    "shim-hang": _shim("hang"),
    "fill-disk": _fill_disk,
    "fill-inodes": _fill_inodes,
    "fill-tmpfs": _fill_tmpfs,
    "unmount": _unmount(lazy=False),
    "unmount-lazy": _unmount(lazy=True),
    "remount-read-only": _read_only,
    "delete-source": _source(replace=False),
    "replace-source": _source(replace=True),
    "freeze": _freeze,
    "memory-hog": _memory,
    "cpu-hog": _cpu,
    "pids-exhaustion": _pids,
    "files-exhaustion": _files,
    "clock-step": _clock_step,
    "power-cut": _power_cut,
    "suspend": _suspend,
    "command": _command,
}
