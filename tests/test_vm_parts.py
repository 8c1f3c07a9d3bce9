"""What of a VM can be known without one: its files, its command line, its refusals."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness import clock, process
from harness.errors import EnvironmentInvalid
from harness.machine import vm, vm_image, vm_keeper, vm_qemu
from harness.machine.watch import Watch

GIB = 1 << 30


def entries(archive):
    """(name, mode, content) of a "newc" archive, read by its own published layout."""
    at, found = 0, []
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        size, length = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + length - 1].decode()
        at += (110 + length + 3) // 4 * 4
        content = archive[at : at + size]
        at += (size + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found.append((name, fields[1], content))


def test_an_archive_holds_folders_before_files_and_every_byte():
    """The kernel makes what it reads in order: a file without its folder would be lost."""
    files = {"a/b/c": (0o600, b"12345"), "d": (0o755, b"")}
    found = entries(vm_image.cpio(files, folders=("e",)))
    names = [name for name, _, _ in found]
    assert set(names) == {"a", "a/b", "a/b/c", "d", "e"}
    assert names.index("a") < names.index("a/b") < names.index("a/b/c")
    assert ("a/b/c", 0o100600, b"12345") in found


def test_the_first_files_stand_below_one_folder():
    """What one VM gets is copied over the image's root from there."""
    found = entries(vm_image.first_files({"root/.ssh/authorized_keys": (0o600, b"key")}))
    modes = {name: mode for name, mode, _ in found}
    assert modes["first/root/.ssh/authorized_keys"] == 0o100600
    assert modes["first/root/.ssh"] == 0o040700


def test_the_network_is_shut_but_for_ssh_on_this_host(tmp_path):
    """One door, on the loopback address, at a port that the kernel chooses."""
    hardware = vm_qemu.Hardware(
        memory=GIB, cpus=1, root=tmp_path / "a,b", data=tmp_path / "d", kernel=Path("k"),
        initrd=Path("i"), arguments="psi=1",
    )  # fmt: skip
    argv = vm_qemu.command(hardware, tmp_path, "tcg")
    (net,) = [argv[i + 1] for i, word in enumerate(argv) if word == "-netdev"]
    assert net == "user,id=net,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-:22"
    assert argv[argv.index("-m") + 1] == "1024M"
    assert any("a,,b" in word for word in argv), "a comma in a path must not end an option"


def test_what_the_host_can_not_give_is_refused_with_numbers(tmp_path):
    """All reasons at once, before anything is made."""
    with pytest.raises(EnvironmentInvalid) as told:
        vm.refuse(memory=1 << 20, cpus=0.5, disk=1 << 20)
    for word in ("memory 1MiB", "whole processors", "disk 1MiB"):
        assert word in str(told.value)
    with pytest.raises(EnvironmentInvalid, match="the host has"):
        vm.refuse(memory=1 << 60)


SAYS_SO = "trap 'echo qemu: terminating on signal 15 from pid 7; exit 0' TERM; echo up; while :; do sleep 0.05; done"


@pytest.mark.parametrize(
    ("script", "number", "what", "words"),
    [
        pytest.param("exit 0", 0, "shut-down", "its guest powered off", id="powered-off"),
        pytest.param("echo up; exec sleep 60", 9, "killed", "was ended by SIGKILL", id="killed"),
        pytest.param(SAYS_SO, 15, "killed", "signal 15 from pid 7", id="told-to-go"),
        pytest.param("echo bad disk; exit 3", 0, "killed", "left with 3: bad disk", id="failed"),
        pytest.param("kill -9 $PPID; sleep 60", 0, "killed", "that held it", id="its-keeper"),
    ],
)
def test_the_end_of_a_vm_is_told_by_its_process(tmp_path, script, number, what, words):
    """What this host saw: when it went, by what signal or status, and its own last line."""
    log = tmp_path / "qemu.log"
    hardware = vm_qemu.Hardware(
        memory=GIB, cpus=1, root=tmp_path, data=tmp_path, kernel=tmp_path, initrd=tmp_path,
        arguments="",
    )  # fmt: skip
    qemu = vm_qemu.Qemu(hardware, tmp_path, accel="tcg")
    argv = (sys.executable, "-I", "-S", vm_keeper.__file__, "/bin/sh", "-c", script)
    with log.open("wb") as stderr:
        qemu._keeper = process.spawn(argv, stderr=stderr)
    try:
        qemu.pid = int(qemu._keeper.popen.stdout.readline().split()[1])
        ended = clock.RealClock().inbox()
        before = clock.now()
        watch = Watch(qemu, gone=lambda: ended.put(True))
        watch.start()
        if number:
            assert watch.told(0) == ()
            assert clock.wait_until(lambda: b"up" in log.read_bytes(), deadline=20)
            process.run(("kill", f"-{number}", str(qemu.pid)), deadline=20)
        assert ended.get(clock.now() + 20 * clock.NS)
        (said,) = watch.told(before)
        assert said.ended
        assert (said.what, said.until) == (what, None)
        assert words in said.why
        assert f"process {qemu.pid}, its hypervisor," in said.why
        watch.stop()
    finally:
        qemu.kill()
