"""A pen, a probe in it and containers for it to watch; a test file with a pen of its own has its own."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import clock, engine, images
from harness.machine.pen import Pen
from harness.runner.link import ProbeLink

sys.path.insert(0, str(Path(__file__).parent))
from listening import Heard

BUSYBOX = SimpleNamespace(rootfs="busybox", ref=None, build=None)


@pytest.fixture(scope="module")
def pen():
    with Pen(memory=1 << 30, disk=2 << 30) as made:
        yield made


@pytest.fixture(scope="module")
def client(pen):
    connected = engine.connect(pen.docker_host)
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def image(client):
    return images.ensure(client, BUSYBOX)


@pytest.fixture(scope="module")
def probe(pen):
    """(link, heard), shared by the tests that do not hurt it."""
    heard = Heard()
    with ProbeLink(pen.probe_site(), on_event=heard) as link:
        yield link, heard


@pytest.fixture
def run(client, image, probe):
    """run(argv, limits…) → id of a started, watched container; removed afterwards."""
    link, _ = probe
    made = []

    def start(*argv, start=True, network="none", **host):
        config = {
            "Image": image,
            "Cmd": list(argv),
            "HostConfig": {"NetworkMode": network, **host},
        }
        container = client.create(None, config).need("create")
        made.append(container)
        link.watch(container)
        if start:
            client.start(container).need("start")
        return container

    yield start
    for container in made:
        link.unwatch(container)
        client.remove(container, force=True)


SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


@pytest.fixture
def sshd(tmp_path, monkeypatch):
    """The port of an ssh server on 127.0.0.1 that lets root in by key, for the `ssh` of this test."""
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True
        )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {tmp_path}/host\nPidFile none\nStrictModes no\n"
        f"AuthorizedKeysFile {tmp_path}/user.pub\nPermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\nUseDNS no\n"
    )
    (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {(tmp_path / 'host.pub').read_text()}")
    # The user's own settings: an `ssh` first on PATH that reads them.
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin/ssh"
    wrapper.write_text(
        f"#!/bin/sh\nexec {shutil.which('ssh')} -F none -i {tmp_path}/user"
        f' -o UserKnownHostsFile={tmp_path}/known "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    log = tmp_path / "sshd.log"
    server = subprocess.Popen([SSHD, "-D", "-E", log, "-f", tmp_path / "sshd_config"])

    def listens():
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0

    assert clock.wait_until(listens, deadline=20), log.read_text()
    yield port
    server.terminate()
    server.wait()
