"""One engine and the requests the harness makes of it.

Rule: a method is one request (or the SDK's own pair), in the API's own words: bodies
and filters are plain dictionaries of the API reference, so that nothing an engine
can do is out of reach. No method decides anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from harness import process
from harness.engine.answers import Answer, ask
from harness.engine.command import CommandExec
from harness.engine.execs import ExecStream, PreparedExec
from harness.errors import EnvironmentInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from harness.engine.aimed import Aimed

T = TypeVar("T")

SDK: TypeAlias = Any
"""docker.APIClient. Its type stubs know neither half of its methods nor the ones below it."""

# The SDK's own time limit, per socket operation: the deadlines are ours, this one only
# ends threads that nobody waits for any more.
_SDK_SECONDS = 3600
_ANY_VERSION = "1.40"


class Engine:
    """Requests to one engine. Thread-safe: every call has a connection to itself.

    Every method takes `deadline` in seconds; without it `Engine.deadline` holds.
    """

    def __init__(
        self,
        docker_host: str,
        *,
        deadline: float = 30.0,
        version: str = "auto",
        tls: Mapping[str, str] | None = None,
    ) -> None:
        self.docker_host = docker_host
        self.deadline = deadline
        self._version = version
        self._tls = dict(tls) if tls else None
        self._sdk: SDK | None = None

    def open(self, *, version: str | None = None) -> SDK:
        """A client of the SDK with a connection pool of its own; the caller closes it."""
        import docker
        import docker.tls

        secure: Any = False
        if self._tls:
            secure = docker.tls.TLSConfig(
                client_cert=(self._tls["cert"], self._tls["key"]) if "cert" in self._tls else None,
                ca_cert=self._tls.get("ca"),
                verify=bool(self._tls.get("ca")),
            )
        version = version or self._version
        unix = self.docker_host.startswith("unix://")
        sdk: SDK = docker.APIClient(
            base_url=self.docker_host,
            # "auto" asks the engine at once, through the transport that is about to be replaced.
            version=_ANY_VERSION if unix and version == "auto" else version,
            timeout=_SDK_SECONDS,
            tls=secure,
            # The SDK's own ssh needs paramiko; the user's ssh has the user's settings.
            use_ssh_client=self.docker_host.startswith("ssh://"),
        )
        if unix:
            from harness.engine import unix as transport

            transport.fit(sdk, self.docker_host.removeprefix("unix://"), _SDK_SECONDS)
            if version == "auto":
                try:
                    sdk._version = sdk._retrieve_server_version()  # noqa: SLF001
                except BaseException:
                    sdk.close()
                    raise
        return sdk

    @property
    def sdk(self) -> SDK:
        """The pooled client. The first use asks the engine for its API version."""
        if self._sdk is None:
            self._sdk = self.open()
            self._version = str(self._sdk._version)  # noqa: SLF001
        return self._sdk

    @property
    def version(self) -> str:
        """The API version that was agreed on ("auto" before the first request)."""
        return self._version

    def close(self) -> None:
        """Drop the pooled connections. The engine itself is not touched."""
        if self._sdk is not None:
            self._sdk.close()
            self._sdk = None

    def ask(
        self, work: Callable[[SDK], T], *, deadline: float | None = None, name: str = "call"
    ) -> Answer[T]:
        """Any request of the SDK's low-level client, with a deadline."""
        return ask(
            lambda: work(self.sdk), deadline=deadline or self.deadline, name=f"engine-{name}"
        )

    def _json(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        deadline: float | None = None,
    ) -> Answer[Any]:
        """A request the SDK has no name or too narrow a method for."""

        def work(sdk: SDK) -> Any:
            url = sdk._url(path)  # noqa: SLF001
            sent: dict[str, Any] = {"params": dict(params or {})}
            if body is not None:
                sent["json"] = dict(body)
            answer = getattr(sdk, f"_{method}")(url, **sent)
            sdk._raise_for_status(answer)  # noqa: SLF001
            return answer.json() if answer.content else None

        return self.ask(work, deadline=deadline, name=path)

    # --- the engine ---------------------------------------------------------------

    def ping(self, *, deadline: float | None = None) -> Answer[bool]:
        return self.ask(lambda s: bool(s.ping()), deadline=deadline, name="ping")

    def about(self, *, deadline: float | None = None) -> Answer[dict[str, Any]]:
        """GET /version."""
        return self.ask(lambda s: dict(s.version()), deadline=deadline, name="version")

    def info(self, *, deadline: float | None = None) -> Answer[dict[str, Any]]:
        return self.ask(lambda s: dict(s.info()), deadline=deadline, name="info")

    def df(self, *, deadline: float | None = None) -> Answer[dict[str, Any]]:
        return self.ask(lambda s: dict(s.df()), deadline=deadline, name="df")

    # --- containers ---------------------------------------------------------------

    def create(
        self, name: str | None, body: Mapping[str, Any], *, deadline: float | None = None
    ) -> Answer[str]:
        """POST /containers/create with the API's own body ({"Image": …, "HostConfig": …}); its id."""
        return self.ask(
            lambda s: str(s.create_container_from_config(dict(body), name)["Id"]),
            deadline=deadline,
            name="create",
        )

    def start(self, container: str, *, deadline: float | None = None) -> Answer[None]:
        return self._json("post", f"/containers/{container}/start", deadline=deadline)

    def stop(
        self, container: str, *, grace: float | None = None, deadline: float | None = None
    ) -> Answer[None]:
        """grace: seconds until the engine uses SIGKILL; None leaves it to the container."""
        params = {} if grace is None else {"t": int(grace)}
        return self._json("post", f"/containers/{container}/stop", params=params, deadline=deadline)

    def restart(
        self, container: str, *, grace: float | None = None, deadline: float | None = None
    ) -> Answer[None]:
        params = {} if grace is None else {"t": int(grace)}
        return self._json(
            "post", f"/containers/{container}/restart", params=params, deadline=deadline
        )

    def kill(
        self, container: str, *, signal: str = "SIGKILL", deadline: float | None = None
    ) -> Answer[None]:
        return self._json(
            "post", f"/containers/{container}/kill", params={"signal": signal}, deadline=deadline
        )

    def pause(self, container: str, *, deadline: float | None = None) -> Answer[None]:
        return self._json("post", f"/containers/{container}/pause", deadline=deadline)

    def unpause(self, container: str, *, deadline: float | None = None) -> Answer[None]:
        return self._json("post", f"/containers/{container}/unpause", deadline=deadline)

    def remove(
        self,
        container: str,
        *,
        force: bool = True,
        volumes: bool = True,
        deadline: float | None = None,
    ) -> Answer[None]:
        return self.ask(
            lambda s: s.remove_container(container, force=force, v=volumes),
            deadline=deadline,
            name="remove",
        )

    def update(
        self, container: str, body: Mapping[str, Any], *, deadline: float | None = None
    ) -> Answer[Any]:
        """POST /containers/…/update with the API's own body ({"Memory": bytes, …})."""
        return self._json("post", f"/containers/{container}/update", body=body, deadline=deadline)

    def inspect(self, container: str, *, deadline: float | None = None) -> Answer[dict[str, Any]]:
        return self.ask(
            lambda s: dict(s.inspect_container(container)), deadline=deadline, name="inspect"
        )

    def logs(
        self, container: str, *, tail: int = 100, deadline: float | None = None
    ) -> Answer[bytes]:
        """The last lines of both streams, without time stamps."""
        return self.ask(
            lambda s: bytes(s.logs(container, tail=tail)), deadline=deadline, name="logs"
        )

    def ps(
        self,
        *,
        everything: bool = True,
        filters: Mapping[str, Any] | None = None,
        deadline: float | None = None,
    ) -> Answer[list[dict[str, Any]]]:
        """filters: {"label": ["deathbench"], "status": […]} as in the API."""
        return self.ask(
            lambda s: list(s.containers(all=everything, filters=dict(filters or {}))),
            deadline=deadline,
            name="ps",
        )

    def put_archive(
        self, container: str, folder: str, tar: bytes, *, deadline: float | None = None
    ) -> Answer[bool]:
        """Unpack a tar into a folder of the container, running or not."""
        return self.ask(
            lambda s: bool(s.put_archive(container, folder, tar)),
            deadline=deadline,
            name="put",
        )

    # --- exec ---------------------------------------------------------------------

    def exec_create(
        self,
        container: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        user: str = "",
        privileged: bool = False,
        deadline: float | None = None,
    ) -> Answer[str]:
        return self.ask(
            lambda s: str(
                s.exec_create(
                    container,
                    list(argv),
                    environment=dict(env or {}),
                    workdir=workdir,
                    user=user,
                    privileged=privileged,
                )["Id"]
            ),
            deadline=deadline,
            name="exec-create",
        )

    def exec_start(
        self, exec_id: str, *, deadline: float | None = None
    ) -> Answer[tuple[bytes, bytes]]:
        """Start and wait for the end of its output: (standard output, standard error)."""

        def work(sdk: SDK) -> tuple[bytes, bytes]:
            streams = {1: bytearray(), 2: bytearray()}
            for number, chunk in ExecStream(sdk, exec_id):
                streams.setdefault(number, bytearray()).extend(chunk)
            return bytes(streams[1]), bytes(streams[2])

        return self.ask(work, deadline=deadline, name="exec-start")

    def exec_inspect(
        self, exec_id: str, *, deadline: float | None = None
    ) -> Answer[dict[str, Any]]:
        return self.ask(
            lambda s: dict(s.exec_inspect(exec_id)), deadline=deadline, name="exec-inspect"
        )

    def prepare_exec(self, container: str, argv: Sequence[str], **options: Any) -> PreparedExec:
        """An exec whose thread and connection are ready: only `go()` remains."""
        return PreparedExec(self, container, argv, **options)

    def command_exec(self, container: str, argv: Sequence[str], **options: Any) -> Aimed | None:
        """The same through the docker program; None where it is not here, or wants keys of its own."""
        program = process.which("docker")
        if program is None or self._tls:
            return None
        return CommandExec(program, self.docker_host, container, argv, **options)

    # --- networks -----------------------------------------------------------------

    def networks(
        self, *, filters: Mapping[str, Any] | None = None, deadline: float | None = None
    ) -> Answer[list[dict[str, Any]]]:
        return self.ask(
            lambda s: list(s.networks(filters=dict(filters or {}))),
            deadline=deadline,
            name="networks",
        )

    def network_create(
        self, name: str, body: Mapping[str, Any] | None = None, *, deadline: float | None = None
    ) -> Answer[str]:
        """POST /networks/create; its id."""
        answer = self._json(
            "post", "/networks/create", body={"Name": name, **(body or {})}, deadline=deadline
        )
        found = None if answer.value is None else str(answer.value["Id"])
        return Answer(found, answer.failure, answer.asked, answer.answered)

    def network_remove(self, network: str, *, deadline: float | None = None) -> Answer[None]:
        return self.ask(
            lambda s: s.remove_network(network), deadline=deadline, name="network-remove"
        )

    def volume_remove(self, volume: str, *, deadline: float | None = None) -> Answer[None]:
        return self.ask(
            lambda s: s.remove_volume(volume, force=True), deadline=deadline, name="volume-remove"
        )

    def network_disconnect(
        self, network: str, container: str, *, force: bool = False, deadline: float | None = None
    ) -> Answer[None]:
        return self.ask(
            lambda s: s.disconnect_container_from_network(container, network, force=force),
            deadline=deadline,
            name="network-disconnect",
        )

    # --- images -------------------------------------------------------------------

    def image(self, ref: str, *, deadline: float | None = None) -> Answer[dict[str, Any]]:
        """What the engine knows of a local image; 404 when it has none."""
        return self.ask(lambda s: dict(s.inspect_image(ref)), deadline=deadline, name="image")

    def import_tar(
        self,
        tar: bytes,
        repository: str,
        tag: str,
        *,
        changes: Sequence[str] = (),
        deadline: float | None = None,
    ) -> Answer[None]:
        """`docker import`: a root file system becomes an image of one layer."""

        def work(sdk: SDK) -> None:
            params = {"fromSrc": "-", "repo": repository, "tag": tag, "changes": list(changes)}
            answer = sdk._post(  # noqa: SLF001
                sdk._url("/images/create"),  # noqa: SLF001
                data=tar,
                params=params,
                headers={"Content-Type": "application/tar"},
            )
            sdk._raise_for_status(answer)  # noqa: SLF001
            _stream_error(answer.text.splitlines())

        return self.ask(work, deadline=deadline, name="import")

    def pull(self, ref: str, *, deadline: float | None = None) -> Answer[None]:
        def work(sdk: SDK) -> None:
            _stream_error(sdk.pull(ref, stream=True, decode=True))

        return self.ask(work, deadline=deadline, name="pull")

    def build(
        self, folder: str, tag: str, *, labels: Mapping[str, str], deadline: float | None = None
    ) -> Answer[None]:
        """`docker build` of a directory with a Dockerfile; the failing step's words on failure."""

        def work(sdk: SDK) -> None:
            _stream_error(
                sdk.build(path=folder, tag=tag, rm=True, decode=True, labels=dict(labels))
            )

        return self.ask(work, deadline=deadline, name="build")

    # --- streams ------------------------------------------------------------------

    def events(self, *, since: float | None = None) -> Iterator[dict[str, Any]]:
        """The engine's event stream, in the caller's thread, until it ends or raises."""
        yield from self.sdk.events(since=since, decode=True)


def _stream_error(lines: Iterable[Any]) -> None:
    """An error inside a progress stream that began with 200 is an error all the same."""
    import json

    import docker.errors

    for line in lines:
        if isinstance(line, str):
            try:
                line = json.loads(line)
            except ValueError:
                continue
        if isinstance(line, dict) and line.get("error"):
            raise docker.errors.DockerException(str(line["error"]).strip())


def connect(
    docker_host: str, *, deadline: float = 30.0, tls: Mapping[str, str] | None = None
) -> Engine:
    """An engine that has answered.

    Raises:
        EnvironmentInvalid: it does not answer.
    """
    engine = Engine(docker_host, deadline=deadline, tls=tls)
    answer = engine.ping()
    if answer.failure is not None:
        raise EnvironmentInvalid(
            f"no answer from the engine at {docker_host}",
            why=str(answer.failure),
            mend="start it, or name another one (DOCKER_HOST, docker context use)",
        )
    return engine
