"""An engine that is not ours: found as docker finds it, used, never changed.

The engine here is a pen's: no test touches one it did not start.
"""

from __future__ import annotations

import io
import os
import queue
import socket
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import engine, events, images, process
from harness.errors import EnvironmentInvalid
from harness.machine.contexts import Endpoint
from harness.machine.host import Host
from harness.machine.pen import Pen
from harness.machine.relay import Relay
from harness.runner.link import ProbeLink

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def pen():
    with Pen(memory=2 << 30, disk=4 << 30) as made:
        yield made


def python_tar() -> bytes:
    """A root file system with the system's own python3, a shell and nsenter."""
    programs = [
        p
        for p in ("/usr/bin/python3", "/bin/sh", "/usr/bin/nsenter", "/bin/cat")
        if Path(p).exists()
    ]
    wanted: set[str] = set()
    for program in programs:
        real = os.path.realpath(program)
        wanted |= {real}
        said = subprocess.run(["ldd", real], capture_output=True, text=True, check=True).stdout
        for line in said.splitlines():
            path = next((w for w in line.split() if w.startswith("/")), None)
            if path:
                wanted.add(path)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path in sorted(wanted):
            tar.add(os.path.realpath(path), path)
        for program in programs:
            if program not in wanted:
                link = tarfile.TarInfo(program)
                link.type, link.linkname = tarfile.SYMTYPE, os.path.realpath(program)
                tar.addfile(link)
        version = (
            "python"
            + subprocess.run(
                ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
        )
        tar.add(
            f"/usr/lib/{version}",
            f"/usr/lib/{version}",
            filter=lambda i: None if "/test" in i.name or "__pycache__" in i.name else i,
        )
    return out.getvalue()


def test_a_local_engine_is_watched_from_beside(pen):
    """Root on the engine's own kernel is the best place there is."""
    with Host(context=pen.docker_host) as host:
        assert host.road == "beside"
        assert host.probe_site().python == (sys.executable,)
        assert host.root(("id", "-u")).text.strip() == "0"
        assert host.facts().engine == pen.facts().engine
    assert engine.connect(pen.docker_host).ping().ok, "stop leaves an engine that is not ours alone"


def test_a_helper_container_sees_the_kernel(pen, client, monkeypatch):
    """Where we can not be root ourselves, a container of ours is: host pids, cgroups, tracing, pipes."""
    client.import_tar(python_tar(), "python", "3-local").need("import")
    with Host(context=pen.docker_host, road="helper") as host:
        labelled = client.ps(filters={"label": [f"deathbench.owner={host.name}"]}).need("ps")
        assert len(labelled) == 1
        code = (
            "import os, sys; print(os.listdir('/proc').count('1'), 'memory' in str(os.listdir('/sys/fs/cgroup'))"
            " or 'cgroup.procs' in os.listdir('/sys/fs/cgroup'), os.path.exists('/var/run/docker.sock'), sys.stdin.read())"
        )
        said = process.run((*host.probe_site().python, "-c", code), stdin=b"fed", deadline=20)
        assert said.text.split() == ["1", "True", "True", "fed"], said
        piped = (sys.executable, "-m", "harness.engine.pipe", pen.docker_host, labelled[0]["Id"])
        said = process.run(
            (*piped, "python3", "-c", "import sys; print(sys.stdin.read()); sys.exit(5)"),
            stdin=b"fed",
            deadline=20,
        )
        assert (said.code, said.out) == (5, b"fed\n"), said
    assert not client.ps(filters={"label": ["deathbench"]}).need("ps"), "it goes with its machine"


def test_without_any_place_it_says_so(pen):
    """The engine's interface alone: the reasons stand in the probe's settings, root answers 127."""
    with Host(context=pen.docker_host, road="api") as host:
        assert "api_only" in host.probe_site().config
        refused = host.root(("id",))
        assert refused.code == 127 and b"no way to be root" in refused.err


def test_no_engine_is_one_error_that_names_who_chose_it(tmp_path, monkeypatch):
    """A dead DOCKER_HOST is named with its variable and the ways out."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(EnvironmentInvalid) as raised:
        Host().start()
    assert "DOCKER_HOST" in str(raised.value) and "none.sock" in str(raised.value)


def test_a_far_engine_looks_near(pen, tmp_path):
    """Over tcp an engine is reached through a unix socket of ours, long answers and all."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                far, _ = listener.accept()
            except OSError:
                return
            near = socket.socket(socket.AF_UNIX)
            near.connect(str(pen.socket))
            for a, b in ((far, near), (near, far)):
                threading.Thread(target=pump, args=(a, b), daemon=True).start()

    def pump(a, b):
        while chunk := a.recv(65536):
            b.sendall(chunk)
        b.shutdown(socket.SHUT_WR)

    threading.Thread(target=serve, daemon=True).start()
    relay = Relay(
        Endpoint(f"tcp://127.0.0.1:{listener.getsockname()[1]}", "a test"), tmp_path / "d.sock"
    )
    relay.open()
    far = engine.connect(f"unix://{relay.path}")
    assert (
        far.info().need("info")["ID"] == engine.connect(pen.docker_host).info().need("info")["ID"]
    )
    far.close()
    relay.close()
    listener.close()
    assert not relay.path.exists()


def test_an_engine_over_ssh_is_watched_from_over_there(pen, client, sshd, monkeypatch):
    """DOCKER_HOST=ssh://…: requests through a forward of ours, probe and root over connections of theirs."""
    image = images.ensure(client, SimpleNamespace(rootfs="busybox", ref=None, build=None))
    monkeypatch.setenv("DOCKER_HOST", f"ssh://root@127.0.0.1:{sshd}{pen.socket}")
    heard = queue.Queue()
    with Host() as host:
        assert host.road == "ssh", host.why_not
        said = host.root(
            ("sh", "-c", 'printf "%s|" "$@"; cat; exit 7', "x", "a b", "$c"), stdin=b"in"
        )
        assert (said.text, said.code) == ("a b|$c|in", 7)
        assert host.facts().engine == pen.facts().engine
        far = engine.connect(host.docker_host)
        with ProbeLink(host.probe_site(), on_event=heard.put) as link:
            states = {e.name: e for e in link.states() if isinstance(e, events.SourceState)}
            assert states["docker"].state == "active", states["docker"].why
            made = far.create(None, {"Image": image, "Cmd": ["sleep", "1000"]}).need("create")
            link.watch(made)
            assert far.start(made).ok
            assert far.kill(made).ok
            while not isinstance(seen := heard.get(timeout=60), events.DeathSeen):
                continue
            assert seen.container == made
            assert far.remove(made).ok
        far.close()


def test_no_way_in_over_ssh_is_one_error_that_says_how_to_try(sshd):
    """A key that is refused: ssh's own words, and the command that must work without a question."""
    with pytest.raises(EnvironmentInvalid) as raised:
        Host(context=f"ssh://nobody-here@127.0.0.1:{sshd}").start()
    assert "Permission denied" in str(raised.value)
    assert f"ssh -o BatchMode=yes -p {sshd} nobody-here@127.0.0.1 true" in str(raised.value)
