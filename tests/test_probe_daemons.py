"""Who is a daemon: by name, by command, and never a child that has not become anything yet."""

import os

import pytest

from harness.probe import daemons, linux

ID = "ab" * 32
SHIM = f"/usr/bin/containerd-shim-runc-v2\0-namespace\0moby\0-id\0{ID}\0-address\0/a.sock\0"


class Out:
    def __init__(self):
        self.said = []

    def emit(self, kind, source, t, seen, **fields):
        self.said.append((fields["daemon"], fields["pid"], fields["state"], fields["container"]))


class Loop:
    def add(self, fd, mask, hear, source):
        pass


@pytest.fixture
def processes(monkeypatch):
    """pid → (name, parent, command), in the place of /proc."""
    table = {}

    def read_text(path, most=0):
        pid, what = path.split("/")[2:4]
        if int(pid) not in table:
            return None
        name, _, command = table[int(pid)]
        return command if what == "cmdline" else name + "\n"

    def stat(pid):
        name, parent, _ = table[pid]
        return {"name": name, "state": "S", "ppid": parent, "start": 7}

    monkeypatch.setattr(linux, "read_text", read_text)
    monkeypatch.setattr(linux, "stat", stat)
    monkeypatch.setattr(linux, "pids", lambda: sorted(table))
    monkeypatch.setattr(linux, "pidfd_open", lambda pid: os.open(os.devnull, os.O_RDONLY))
    monkeypatch.setattr(daemons.Daemons, "ours", lambda self, pid: True)
    return table


def seen(table):
    out = Out()
    found = daemons.Daemons(Loop(), out, "/", None, lambda: None)
    found.look()
    for daemon in found.known.values():
        os.close(daemon.fd)
    return out.said


def test_daemons_and_shims_are_found_by_name_and_command(processes):
    """Each once, a shim with the container it keeps."""
    processes[10] = ("dockerd", 1, "dockerd\0")
    processes[11] = ("containerd", 10, "containerd\0--config\0x\0")
    processes[12] = ("containerd-shim", 1, SHIM)
    processes[13] = ("containerd-shim", 11, SHIM + "start\0")
    processes[14] = ("sh", 12, "sh\0")
    assert seen(processes) == [
        ("dockerd", 10, "alive", None),
        ("containerd", 11, "alive", None),
        ("shim", 12, "alive", ID),
    ]


@pytest.mark.parametrize(("name", "command"), [("dockerd", "dockerd\0"), ("containerd-shim", SHIM)])
def test_a_child_that_is_about_to_become_another_program_is_no_daemon(processes, name, command):
    """Its end, a moment later, would be taken for the daemon's."""
    processes[10] = (name, 1, command)
    processes[900] = (name, 10, command)
    processes[5] = (name, 10, command)  # pids start again from below
    assert [pid for _, pid, _, _ in seen(processes)] == [10]


def test_a_shim_whose_starter_is_still_there_is_one(processes):
    """What starts a shim has its name and another command."""
    processes[20] = ("containerd-shim", 11, SHIM + "start\0")
    processes[21] = ("containerd-shim", 20, SHIM)
    assert [pid for _, pid, _, _ in seen(processes)] == [21]
