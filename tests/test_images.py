"""Images from root file systems: the same bytes, the same tag; missing ones say so."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import images, process
from harness.engine.answers import Answer, Failure, Trouble
from harness.errors import EnvironmentInvalid


def elf(interpreter):
    """The head of a 64-bit ELF with two program headers."""
    head = bytearray(64 + 2 * 56)
    head[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", head, 32, 64)
    struct.pack_into("<HH", head, 54, 56, 2)
    struct.pack_into("<I", head, 64, 1)
    struct.pack_into("<I", head, 64 + 56, 3 if interpreter else 1)
    return bytes(head)


def test_static_is_told_from_dynamic():
    """Only a program without an interpreter can live alone in an image."""
    assert images._is_static(elf(interpreter=False))
    assert not images._is_static(elf(interpreter=True))
    assert not images._is_static(b"#!/bin/sh\n")


@given(st.binary(max_size=200))
def test_any_bytes_are_static_or_not(data):
    """Invariant: arbitrary bytes are an answer, never an exception."""
    assert images._is_static(data) in (True, False)


def test_busybox_tar_is_its_content():
    """Order and repetition of applets change nothing; another binary or applet changes the tag."""
    one = images.busybox_tar(b"binary", ["sh", "ls", "busybox"])
    assert one == images.busybox_tar(b"binary", ["ls", "sh", "ls"])
    assert images.tag_of(one) != images.tag_of(images.busybox_tar(b"binary2", ["ls", "sh"]))
    with tarfile.open(fileobj=io.BytesIO(one)) as tar:
        names = tar.getnames()
        assert tar.getmember("bin/sh").linkname == "busybox"
        assert tar.getmember("bin/busybox").mode == 0o755
        assert tar.getmember("tmp").mode == 0o1777
        assert {m.mtime for m in tar} == {0}
    assert len(names) == len(set(names))


def test_directory_tar_depends_on_content_alone(tmp_path):
    """Times and the order of creation do not show; names, bytes, modes and links do."""

    def make(where, names):
        for name in names:
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            (where / name).write_text(name)
        (where / "link").symlink_to("a/x")
        return images.directory_tar(where)

    one = make(tmp_path / "1", ["a/x", "b/y", "z"])
    two = make(tmp_path / "2", ["z", "b/y", "a/x"])
    assert one == two
    (tmp_path / "2/z").chmod(0o755)
    assert images.directory_tar(tmp_path / "2") != one


class FakeEngine:
    """Knows some images, records what is asked."""

    def __init__(self, *known, pull=None, arch=None):
        self.known, self.asked, self.failure = set(known), [], pull
        self.arch = arch

    def about(self):
        return Answer({"Version": "x", "Arch": self.arch}, None, 0, 0)

    def image(self, ref):
        if ref in self.known:
            return Answer({"Id": "x"}, None, 0, 0)
        return Answer(None, Failure(Trouble.REFUSED, f"No such image: {ref}", 404), 0, 0)

    def import_tar(self, tar, name, tag, **options):
        self.asked.append(("import", f"{name}:{tag}"))
        self.known.add(f"{name}:{tag}")
        return Answer(None, None, 0, 0)

    def pull(self, ref, **options):
        self.asked.append(("pull", ref))
        return Answer(None, self.failure, 0, 0)


def spec(**given):
    return SimpleNamespace(**{"rootfs": None, "ref": None, "build": None, **given})


def test_what_is_there_is_not_made_again(tmp_path):
    """A root file system is imported once; squeezed or not it is the same image."""
    (tmp_path / "root/bin").mkdir(parents=True)
    (tmp_path / "root/bin/x").write_text("x")
    tar = images.directory_tar(tmp_path / "root")
    (tmp_path / "plain.tar").write_bytes(tar)
    (tmp_path / "plain.tar.gz").write_bytes(gzip.compress(tar))
    engine = FakeEngine()
    tags = {
        images.ensure(engine, spec(rootfs=str(tmp_path / n))) for n in ("plain.tar", "plain.tar.gz")
    }
    assert len(tags) == len(engine.asked) == 1


def test_a_missing_reference_is_pulled_or_said():
    """Local ones are taken as they are; what can not be pulled names the other ways."""
    assert images.ensure(FakeEngine("here:1"), spec(ref="here:1")) == "here:1"
    engine = FakeEngine(pull=Failure(Trouble.REFUSED, "no route to host", 500))
    with pytest.raises(EnvironmentInvalid) as error:
        images.ensure(engine, spec(ref="far:1"))
    assert engine.asked == [("pull", "far:1")]
    assert "no route to host" in error.value.why and "rootfs" in error.value.mend


def test_busybox_may_come_from_the_machine(monkeypatch):
    """Where this host has none, the machine's own is taken; where neither has one, the public one."""
    monkeypatch.setattr(images, "static_busybox", lambda: None)

    class Machine:
        def root(self, argv, **options):
            if argv[0] == "cat":
                return process.Result(tuple(argv), 0, elf(interpreter=False), b"", 0)
            return process.Result(tuple(argv), 0, b"sh\nls\n", b"", 0)

    engine = FakeEngine()
    assert images.ensure(engine, spec(rootfs="busybox"), machine=Machine()).startswith(
        "deathbench/busybox:"
    )
    assert images.ensure(engine, spec(rootfs="busybox")) == images.PUBLIC_BUSYBOX
    assert engine.asked[-1] == ("pull", images.PUBLIC_BUSYBOX)
    closed = FakeEngine(pull=Failure(Trouble.REFUSED, "no route to host", 500))
    with pytest.raises(EnvironmentInvalid) as error:
        images.ensure(closed, spec(rootfs="busybox"))
    assert "busybox-static" in error.value.mend
    assert "no route to host" in error.value.why


@pytest.mark.parametrize(("arch", "taken"), [("amd64", True), ("arm64", False), (None, True)])
def test_a_busybox_of_another_processor_is_not_taken(monkeypatch, tmp_path, arch, taken):
    """A VM of another kind, or an engine over ssh: it would be an exec format error there."""
    binary = bytearray(elf(interpreter=False))
    struct.pack_into("<H", binary, 18, 62)
    (tmp_path / "busybox").write_bytes(bytes(binary))
    monkeypatch.setattr(images, "static_busybox", lambda: str(tmp_path / "busybox"))
    monkeypatch.setattr(images, "_busybox_tar_of", lambda path: (b"tar", "tag"))
    made = images.ensure(FakeEngine(arch=arch), spec(rootfs="busybox"))
    assert made == ("deathbench/busybox:tag" if taken else images.PUBLIC_BUSYBOX)


def test_a_build_needs_a_dockerfile(tmp_path):
    """A directory without one is told what to write."""
    with pytest.raises(EnvironmentInvalid, match="no Dockerfile"):
        images.ensure(FakeEngine(), spec(build=str(tmp_path)))
