"""A pen, a probe in it and containers for it to watch; a test file with a pen of its own has its own."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import engine, images
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
