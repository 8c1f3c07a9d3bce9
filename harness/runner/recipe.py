"""ContainerSpec → the body of the engine's "create container" request.

Rule: exactly what the experiment says and nothing of our own but labels. A key the user
left out is left out here too, so that the engine's default holds and is what gets tested.
Source of names: Engine API v1.41, POST /containers/create.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.model.container import ContainerSpec, Mount


def create_body(
    spec: ContainerSpec,
    *,
    image: str,
    labels: Mapping[str, str],
    ids: Mapping[str, str],
    networks: Mapping[str, str],
    volumes: Mapping[str, str] | None = None,
    cgroup: str = "/",
) -> dict[str, Any]:
    """The JSON body.

    Args:
        image: Tag or id, already there.
        ids: Name within the experiment → container id, for shared namespaces.
        networks: Word in the experiment → name of the network made for the trial.
        volumes: The same for volumes.
        cgroup: The machine's own cgroup; a cgroup_parent is put below it, since a
            container outside would escape the machine's limits.
    """
    host: dict[str, Any] = {
        "Memory": spec.memory,
        "MemorySwap": spec.memory_swap,
        "MemoryReservation": spec.memory_reservation,
        "OomKillDisable": spec.oom_kill_disable or None,
        "OomScoreAdj": spec.oom_score_adj,
        "NanoCpus": None if spec.cpus is None else round(spec.cpus * 1e9),
        "CpuShares": spec.cpu_shares,
        "CpusetCpus": spec.cpuset,
        "PidsLimit": spec.pids,
        "ShmSize": spec.shm_size,
        "Init": spec.init or None,
        "Privileged": spec.privileged or None,
        "ReadonlyRootfs": spec.read_only or None,
        "SecurityOpt": list(spec.security_opt) or None,
        "CapAdd": list(spec.cap_add) or None,
        "CapDrop": list(spec.cap_drop) or None,
        "NetworkMode": _shared(networks.get(spec.network, spec.network), ids),
        "PidMode": _shared(spec.pid, ids),
        "IpcMode": _shared(spec.ipc, ids),
        "RestartPolicy": _restart(spec.restart),
        "Ulimits": [
            {"Name": name, "Soft": u.soft, "Hard": u.soft if u.hard is None else u.hard}
            for name, u in spec.ulimits.items()
        ]
        or None,
        "Tmpfs": {
            target: ",".join([t.mode, *([] if t.size is None else [f"size={t.size}"])])
            for target, t in spec.tmpfs.items()
        }
        or None,
        "Mounts": [_mount(m, volumes or {}, labels) for m in spec.mounts] or None,
        "CgroupParent": None
        if spec.cgroup_parent is None
        else f"{cgroup.rstrip('/')}/{spec.cgroup_parent.strip('/')}",
    }
    body: dict[str, Any] = {
        "Image": image,
        "Cmd": list(spec.command) or None,
        "Entrypoint": None if spec.entrypoint is None else list(spec.entrypoint),
        "Env": [f"{k}={v}" for k, v in spec.env.items()] or None,
        "User": spec.user,
        "WorkingDir": spec.workdir,
        "StopTimeout": None if spec.stop_timeout is None else round(spec.stop_timeout),
        "StopSignal": spec.stop_signal,
        "Hostname": spec.hostname,
        # Ours win: by them the container is found when everything else is lost.
        "Labels": {**spec.labels, **labels},
        "HostConfig": {k: v for k, v in host.items() if v is not None},
    }
    return {k: v for k, v in body.items() if v is not None}


def limits(inspected: Mapping[str, Any]) -> dict[str, Any]:
    """The limits as the engine took them, from an inspect answer's HostConfig."""
    host = inspected.get("HostConfig") or {}
    wanted = (
        "Memory", "MemorySwap", "OomKillDisable", "NanoCpus", "CpuShares", "CpusetCpus",
        "PidsLimit", "CgroupParent", "PidMode", "IpcMode", "NetworkMode", "RestartPolicy",
        "Ulimits", "ShmSize", "AutoRemove",
    )  # fmt: skip
    return {key: host[key] for key in wanted if key in host}


def _restart(policy: str) -> dict[str, Any]:
    """ "on-failure:3" → name and count."""
    name, _, count = policy.partition(":")
    body: dict[str, Any] = {"Name": name}
    if count:
        body["MaximumRetryCount"] = int(count)
    return body


def _shared(value: str | None, ids: Mapping[str, str]) -> str | None:
    if value is not None and value.startswith("container:"):
        name = value.partition(":")[2]
        return f"container:{ids.get(name, name)}"
    return value


def _mount(mount: Mount, volumes: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "Type": "bind" if mount.source is not None else "volume",
        "Source": mount.source or volumes.get(mount.volume or "", mount.volume),
        "Target": mount.target,
        "ReadOnly": mount.mode == "ro",
    }
    if mount.volume is not None:
        body["VolumeOptions"] = {"Labels": dict(labels)}
    if mount.propagation is not None:
        body["BindOptions"] = {"Propagation": mount.propagation}
    return body
