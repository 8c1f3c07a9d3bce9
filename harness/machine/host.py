"""Somebody else's engine: used, watched, never started, stopped or resized.

Rule: it does not belong to us. Its size is what it is; containers of ours carry our
label and are all we may remove. Where the probe can stand decides how good the evidence
is, best first: beside the engine, in a privileged helper container, nowhere (then the
engine's own interface is all there is, and that is said).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from harness import lease, process
from harness.errors import EnvironmentInvalid
from harness.machine import LABEL, MachineFacts, ProbeSite, helper
from harness.machine.contexts import Endpoint, endpoint
from harness.machine.relay import SSH, Relay, far_socket, ssh_target

if TYPE_CHECKING:
    from collections.abc import Sequence

ROADS = ("beside", "ssh", "helper", "api")
"""Where the probe can stand, best evidence first."""


class Host:
    """An existing engine.

    Args:
        context: A URL, a docker context's name, or None for what docker itself would use.
        road: Force one of ROADS; None takes the best that is possible.
    """

    kind = "host"

    def __init__(
        self,
        *,
        context: str | None = None,
        road: str | None = None,
        places: lease.Places | None = None,
    ) -> None:
        self._wanted, self._forced = context, road
        self._places = places or lease.places()
        self.name = "host"
        self.road = "api"
        self.why_not: dict[str, str] = {}
        self._endpoint: Endpoint | None = None
        self._sudo: tuple[str, ...] = ()
        self._lease: lease.Lease | None = None
        self._relay: Relay | None = None
        self._helper: helper.Helper | None = None
        self._info: dict[str, Any] = {}
        self._about: dict[str, Any] = {}

    def start(self) -> None:
        """Connect and find a place for the probe.

        Raises:
            EnvironmentInvalid: no engine answers there.
        """
        self.stop()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        from harness import engine

        self._endpoint = endpoint(self._wanted)
        self._lease = lease.take("host", where=self._places, stem="h")
        self.name = self._lease.name
        self._lease.owns(engine=self._endpoint.url)
        if not self._endpoint.url.startswith("unix://"):
            self._relay = Relay(self._endpoint, self._lease.folder / "docker.sock")
            self._relay.open()
        try:
            client = engine.connect(self.docker_host)
        except EnvironmentInvalid as error:
            raise EnvironmentInvalid(
                f"no engine answers at {self._endpoint.url}",
                where=self._endpoint.chosen_by,
                why=error.why,
                mend="start it, or name another one: machine: {kind: host, context: NAME-OR-URL},"
                " DOCKER_HOST, docker context use",
            ) from error
        try:
            self._info = client.info().need("docker info")
            self._about = client.about().need("docker version")
            self._find_road(client)
        finally:
            client.close()

    def _find_road(self, client: Any) -> None:
        """The first road that is free; the reasons of the ones before it are kept."""
        self.why_not = {}
        for road in ROADS if self._forced is None else (self._forced,):
            why = {"beside": self._not_beside, "ssh": self._not_over_ssh}.get(road)
            if road == "helper":
                self._helper = helper.Helper(
                    client, self.name, str(self._info.get("DockerRootDir") or "/var/lib/docker")
                )
                reason = self._helper.start()
            else:
                reason = why() if why else ""
            if not reason:
                self.road = road
                return
            self.why_not[road] = reason
        if self._forced:
            raise EnvironmentInvalid(
                f"the probe can not stand there: {self._forced}", why=self.why_not[self._forced]
            )

    def _not_beside(self) -> str:
        """Why this process is not on the engine's own kernel as its root; "" when it is."""
        if self._endpoint is None or not self._endpoint.url.startswith("unix://"):
            return "the engine is reached over a network"
        here = os.uname()
        if here.sysname != "Linux" or self._info.get("KernelVersion") != here.release:
            return f"the engine's kernel is {self._info.get('KernelVersion')}, ours {here.release}"
        if os.geteuid() != 0:
            return "not root here"
        if not process.sees_all():
            return "this process lives in a PID namespace of its own"
        return ""

    def _not_over_ssh(self) -> str:
        if self._endpoint is None or not self._endpoint.url.startswith("ssh://"):
            return "the engine is not reached over ssh"
        who = process.run((*self._ssh, "id -u"), deadline=20)
        if not who.ok:
            return f"id -u there: {who.why()}"
        # Root needs no sudo, and a small system has none.
        self._sudo = () if who.text.strip() == "0" else ("sudo", "-n")
        words = " ".join((*self._sudo, "python3"))
        tried = process.run((*self._ssh, f"{words} -c 1"), deadline=20)
        return "" if tried.ok else f"{words} there: {tried.why()}"

    @property
    def _ssh(self) -> tuple[str, ...]:
        assert self._endpoint is not None
        return (*SSH, *ssh_target(self._endpoint.url))

    def stop(self) -> None:
        if self._helper is not None:
            self._helper.stop()
            self._helper = None
        if self._relay is not None:
            self._relay.close()
            self._relay = None
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def keep(self) -> None:
        """Our containers stay on the engine until `clean`; what we put beside them goes."""
        if self._lease is not None:
            self._lease.abandon()
            self._lease = None
        self.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def docker_host(self) -> str:
        if self._relay is not None:
            return f"unix://{self._relay.path}"
        assert self._endpoint is not None, "needs a started machine"
        return self._endpoint.url

    @property
    def socket(self) -> Path:
        return Path(self.docker_host.removeprefix("unix://"))

    def facts(self) -> MachineFacts:
        parts = {
            c.get("Name", "?"): c.get("Version", "?") for c in self._about.get("Components", ())
        }
        parts["probe stands"] = self.road
        return MachineFacts(
            kind=self.kind,
            kernel=str(self._info.get("KernelVersion", "?")),
            engine=str(self._about.get("Version", "?")),
            api=str(self._about.get("ApiVersion", "?")),
            cgroup=int(self._info.get("CgroupVersion") or 1),
            # Another kernel's boot id is told by the probe's hello, if one can stand there.
            boot_id=lease.boot_id() if self.road == "beside" else "",
            effective={
                "memory": int(self._info.get("MemTotal") or 0) or None,
                "cpus": int(self._info.get("NCPU") or 0) or None,
                "disk": None,
                "inodes": None,
            },
            versions=parts,
        )

    def probe_site(self) -> ProbeSite:
        """Where it stands. On road "api" the config has `api_only`: why nothing else can be seen."""
        root = str(self._info.get("DockerRootDir") or "/var/lib/docker")
        config: dict[str, Any] = {
            "docker_socket": str(self.socket),
            "cgroup": "/",
            "logs": {},
            "journal": True,
            "pidfiles": {
                "dockerd": "/var/run/docker.pid",
                "containerd": "/run/containerd/containerd.pid",
            },
            "roots": [root, "/"],
            "label": f"{LABEL}-{self.name}",
        }
        if self.road == "beside":
            return ProbeSite(python=(sys.executable,), config=config)
        if self.road == "ssh" and self._endpoint is not None:
            # ssh joins its words, and a shell over there takes them apart again.
            config.update(docker_socket=far_socket(self._endpoint.url), quote=True)
            return ProbeSite(python=(*self._ssh, *self._sudo, "python3"), config=config)
        if self.road == "helper" and self._helper is not None:
            config.update(self._helper.config())
            return ProbeSite(python=self._helper.python(self.docker_host), config=config)
        config.update(
            api_only="; ".join(f"{road}: {why}" for road, why in self.why_not.items()) or "so wanted",
            journal=False, pidfiles={}, roots=[],
        )  # fmt: skip
        return ProbeSite(python=(sys.executable,), config=config)

    def root(
        self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = 30.0
    ) -> process.Result:
        """As root beside the engine; exit code 127 with the reason where that is impossible."""
        if self.road == "beside":
            return process.run(argv, stdin=stdin, deadline=deadline)
        if self.road == "ssh":
            import shlex

            command = " ".join(shlex.quote(a) for a in (*self._sudo, *argv))
            return process.run((*self._ssh, command), stdin=stdin, deadline=deadline)
        if self.road == "helper" and self._helper is not None:
            return self._helper.root(self.docker_host, argv, stdin=stdin, deadline=deadline)
        why = "; ".join(f"{road}: {reason}" for road, reason in self.why_not.items())
        return process.Result(
            tuple(argv), process.NOT_FOUND, b"", f"no way to be root there ({why})".encode(), 0.0
        )


def refuse_axes(asked: dict[str, object]) -> None:
    """Machine sizes that a matrix wants of an engine that is not ours.

    Raises:
        EnvironmentInvalid: there are any.
    """
    given = {key: value for key, value in asked.items() if value is not None}
    if given:
        what = ", ".join(f"machine.{key}: {value}" for key, value in sorted(given.items()))
        raise EnvironmentInvalid(
            f"this engine's size can not be set: {what}",
            why="the harness does not change an engine it did not make",
            mend="leave these keys out, or use machine: {kind: pen} on Linux as root,"
            " {kind: colima} elsewhere",
        )
