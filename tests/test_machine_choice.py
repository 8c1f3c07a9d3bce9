"""Which machine and which engine: decided by what is here, refused with the ways out."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import pytest

from harness.errors import EnvironmentInvalid
from harness.machine import cgroups, choose, contexts, host, supply


def reasons(**why):
    def why_not(kind, user=None):
        return why.get(kind, "")

    return why_not


@pytest.mark.parametrize(
    ("why", "kind"),
    [
        ({}, "colima"),
        ({"colima": "not installed"}, "pen"),
        ({"colima": "not installed", "pen": "not root"}, "host"),
    ],
)
def test_auto_takes_colima_then_a_pen_then_the_host(monkeypatch, why, kind):
    """The order of preference, each skipped only for a reason."""
    monkeypatch.setattr(choose, "why_not", reasons(**why))
    assert choose.resolve("auto") == kind
    assert choose.resolve("vm") == "vm", "a kind that was named is itself"


def test_auto_runs_colima_as_the_user_that_the_matrix_names(monkeypatch):
    """Root may not be limactl's user, somebody else may."""
    monkeypatch.setattr(
        choose, "why_not", lambda kind, user=None: "" if (kind, user) == ("colima", "me") else "no"
    )
    assert choose.resolve("auto", "me") == "colima"
    with pytest.raises(EnvironmentInvalid):
        choose.resolve("auto")


def test_no_machine_is_one_error_with_all_ways_out(monkeypatch):
    """No root and no engine: every reason, and what to do about it."""
    monkeypatch.setattr(
        choose, "why_not", reasons(colima="not installed", pen="needs root", host="no engine")
    )
    with pytest.raises(EnvironmentInvalid) as error:
        choose.resolve("auto")
    for word in ("not installed", "needs root", "no engine", "root", "DOCKER_HOST"):
        assert word in str(error.value)


def spec(**given):
    base = {
        "kind": "auto",
        "cpus": None,
        "memory": None,
        "disk": None,
        "inodes": None,
        "live_restore": False,
        "context": None,
        "user": None,
    }
    return SimpleNamespace(**{**base, **given})


def test_an_engine_that_is_not_ours_keeps_its_size(monkeypatch):
    """Machine axes on `host` are refused by name, with the machines that have them."""
    monkeypatch.setattr(choose, "why_not", lambda kind, user=None: "" if kind == "host" else "no")
    with pytest.raises(EnvironmentInvalid) as error:
        choose.check(spec(memory=1 << 30, cpus=2))
    assert "machine.memory" in str(error.value) and "machine.cpus" in str(error.value)
    assert choose.check(spec()) == "host"
    with pytest.raises(EnvironmentInvalid):
        host.refuse_axes({"disk": 5})


def test_a_pen_refuses_what_the_host_lacks_all_at_once(monkeypatch, tmp_path):
    """Memory, CPUs and disk: three reasons with both numbers in each."""
    monkeypatch.setattr(supply, "host_memory", lambda: 4 << 30)
    monkeypatch.setattr(supply.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(supply, "free_disk", lambda path: 10 << 30)
    with pytest.raises(EnvironmentInvalid) as error:
        supply.refuse(cgroups.Limits(memory=8 << 30, cpus=4), disk=20 << 30)
    for size in ("8GiB", "4GiB", "20GiB", "10GiB"):
        assert size in error.value.why
    assert "4 CPUs asked for, the host has 2" in error.value.why
    with pytest.raises(EnvironmentInvalid, match="50 MiB"):
        supply.refuse(cgroups.Limits(memory=32 << 20))
    with pytest.raises(EnvironmentInvalid, match="inodes"):
        supply.refuse(cgroups.Limits(), disk=1 << 30, inodes=1 << 30)
    supply.refuse(cgroups.Limits(memory=2 << 30, cpus=1.5), disk=5 << 30, inodes=10000)


@pytest.fixture
def docker_config(tmp_path, monkeypatch):
    """A docker configuration with one context, `far`, with TLS files."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    key = hashlib.sha256(b"far").hexdigest()
    meta = tmp_path / "contexts/meta" / key
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(
        json.dumps(
            {
                "Name": "far",
                "Endpoints": {"docker": {"Host": "tcp://far:2376", "SkipTLSVerify": True}},
            }
        )
    )
    tls = tmp_path / "contexts/tls" / key / "docker"
    tls.mkdir(parents=True)
    (tls / "ca.pem").write_text("x")
    return tmp_path


def test_the_engine_is_found_as_docker_finds_it(docker_config, monkeypatch):
    """The matrix wins over DOCKER_HOST, that over DOCKER_CONTEXT, that over the current context."""
    assert contexts.endpoint().url == contexts.DEFAULT
    (docker_config / "config.json").write_text('{"currentContext": "far"}')
    far = contexts.endpoint()
    assert (far.url, dict(far.tls).keys(), far.verify) == ("tcp://far:2376", {"ca"}, False)
    monkeypatch.setenv("DOCKER_CONTEXT", "default")
    assert contexts.endpoint().url == contexts.DEFAULT
    monkeypatch.setenv("DOCKER_HOST", "ssh://me@there")
    assert contexts.endpoint() == contexts.Endpoint("ssh://me@there", "DOCKER_HOST")
    assert contexts.endpoint("far").url == "tcp://far:2376"
    assert contexts.endpoint("unix:///x.sock").url == "unix:///x.sock"
    assert set(contexts.contexts()) == {"default", "far"}


def test_a_context_that_is_not_there_names_the_ones_that_are(docker_config):
    """Who chose it, and what there is."""
    with pytest.raises(EnvironmentInvalid) as error:
        contexts.endpoint("nowhere")
    assert "nowhere" in str(error.value) and "far" in str(error.value)


def test_files_of_this_host_that_a_vm_would_not_see(tmp_path):
    """Docker makes an empty directory in their place; what is empty here may be empty there."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work/file").write_text("x")
    (tmp_path / "empty").mkdir()
    work, empty = str(tmp_path / "work"), str(tmp_path / "empty")

    def refused(kind, *mounts, profile=None):
        try:
            choose.refuse_sources(
                spec(mounts=mounts, profile=profile), kind, [work, empty, "/none"]
            )
        except EnvironmentInvalid as error:
            return error
        return None

    assert work in refused("colima").what and empty not in refused("colima").what
    assert f"mounts: ['{work}:w']" in refused("colima").mend
    assert refused("vm") is not None
    assert refused("colima", f"{tmp_path}:w") is None
    assert refused("colima", f"{tmp_path}:/elsewhere:w") is not None
    assert refused("pen") is None
    assert refused("colima", profile="mine") is None
