"""Images without a registry: a root file system becomes an image whose tag is its content.

Rule: the same bytes get the same tag, everywhere and for ever; so an image that is there
is never made again, and a campaign names exactly what it ran. Nothing is pulled that
is there already.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from harness import LABEL, process
from harness.errors import EnvironmentInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.engine import Engine

BUSYBOX_PLACES = ("/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static", "/sbin/busybox")

_DEADLINE = 300.0


class ImageLike(Protocol):
    """What is needed of `model.ImageSpec`: exactly one of the three is set."""

    @property
    def rootfs(self) -> str | None: ...
    @property
    def ref(self) -> str | None: ...
    @property
    def build(self) -> str | None: ...


class RootRunner(Protocol):
    """What is needed of a machine: a command as root inside."""

    def root(
        self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = 30.0
    ) -> process.Result: ...


def ensure(engine: Engine, image: ImageLike, *, machine: RootRunner | None = None) -> str:
    """The tag (or reference) of the image, which the engine then has.

    Args:
        machine: Where to look for a static busybox when this host has none (macOS).

    Raises:
        EnvironmentInvalid: it can not be had here.
    """
    if image.rootfs is not None:
        if image.rootfs == "busybox":
            made = _busybox(engine, machine)
            return _public_busybox(engine, machine) if made is None else _import(engine, *made)
        return _import(engine, *_rootfs(image.rootfs))
    if image.build is not None:
        return _build(engine, image.build, machine)
    assert image.ref is not None
    return _reference(engine, image.ref, machine)


def _import(engine: Engine, stem: str, tar: bytes, tag: str) -> str:
    name = f"{LABEL}/{stem}"
    found = engine.image(f"{name}:{tag}")
    if found.ok:
        return f"{name}:{tag}"
    if found.http != 404:
        found.need(f"the image {name}:{tag}")
    # Without a PATH of its own an imported image gets runc's default, which lacks sbin.
    changes = ("ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    engine.import_tar(tar, name, tag, changes=changes, deadline=_DEADLINE).need(
        f"the image {name}:{tag} can not be imported"
    )
    return f"{name}:{tag}"


# --- busybox ---------------------------------------------------------------------


PUBLIC_BUSYBOX = "busybox:stable"
"""For whatever processor the engine has; pulled only where no static busybox is to be found: a
Mac has none, and neither has the VM that colima comes with."""


def _public_busybox(engine: Engine, machine: RootRunner | None) -> str:
    try:
        return _reference(engine, PUBLIC_BUSYBOX, machine)
    except EnvironmentInvalid as error:
        raise EnvironmentInvalid(
            "no static busybox on this system or in the machine, and none can be pulled",
            why="{rootfs: busybox} is made from it; looked at "
            + ", ".join(BUSYBOX_PLACES)
            + f"\n{PUBLIC_BUSYBOX}: {error.why or error.what}",
            mend="apt-get install busybox-static, or name a local image: {ref: NAME}",
        ) from error


def _busybox(engine: Engine, machine: RootRunner | None) -> tuple[str, bytes, str] | None:
    """The image's stem, content and tag, from this host or from inside; None: neither has one."""
    path = static_busybox()
    # An engine may stand on another processor: a VM of another kind, a host over ssh.
    if path is not None and runs_on(_head(path), _processor_of(engine)):
        tar, tag = _busybox_tar_of(path)
        return "busybox", tar, tag
    if machine is not None:
        for place in BUSYBOX_PLACES:
            got = machine.root(("cat", place))
            if got.ok and _is_static(got.out):
                said = machine.root((place, "--list"))
                tar = busybox_tar(got.out, said.text.split())
                return "busybox", tar, tag_of(tar)
    return None


def static_busybox() -> str | None:
    """Path of this system's static busybox."""
    for place in (*BUSYBOX_PLACES, process.which("busybox") or ""):
        if _is_static(_head(place)):
            return place
    return None


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as f:
            return f.read(4096)
    except OSError:
        return b""


def _processor_of(engine: Engine) -> str | None:
    """What the engine calls the processor that it stands on; None where it does not say."""
    arch = (engine.about().value or {}).get("Arch")
    return arch if isinstance(arch, str) else None


_PROCESSORS = {
    62: ("amd64",),
    3: ("386", "amd64"),
    183: ("arm64",),
    40: ("arm",),
    243: ("riscv64",),
}
"""e_machine of an ELF file → the processors, as engines call them, that run it."""


def runs_on(head: bytes, arch: str | None) -> bool:
    """May a program that begins so run on this processor? Yes, where one of the two is unknown.

    >>> x86 = b"\\x7fELF" + b"\\2\\1" + bytes(12) + b"\\x3e\\0"
    >>> runs_on(x86, "amd64"), runs_on(x86, "arm64"), runs_on(x86, None)
    (True, False, True)
    """
    order = "big" if head[5:6] == b"\2" else "little"
    known = _PROCESSORS.get(int.from_bytes(head[18:20], order))  # type: ignore[arg-type]
    return arch is None or known is None or arch in known


def _is_static(head: bytes) -> bool:
    """An ELF program that asks for no interpreter (no PT_INTERP in its program headers).

    >>> _is_static(b"#!/bin/sh")
    False
    """
    if head[:4] != b"\x7fELF" or len(head) < 64:
        return False
    order = "little" if head[5] == 1 else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(head[at : at + size], order)  # type: ignore[arg-type]

    wide = head[4] == 2
    begin = number(32, 8) if wide else number(28, 4)
    size, count = (number(54, 2), number(56, 2)) if wide else (number(42, 2), number(44, 2))
    return all(number(begin + i * size, 4) != 3 for i in range(count))


@cache
def _busybox_tar_of(path: str) -> tuple[bytes, str]:
    said = process.run((path, "--list"), deadline=10)
    if not said.ok or not said.out.strip():
        raise EnvironmentInvalid(f"{path} does not list its applets: {said.why()}")
    tar = busybox_tar(Path(path).read_bytes(), said.text.split())
    return tar, tag_of(tar)


_PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"  # noqa: S105
_GROUP = "root:x:0:\nnogroup:x:65534:\n"


def busybox_tar(binary: bytes, applets: Iterable[str]) -> bytes:
    """A root file system around one busybox: every applet a link in /bin.

    The same binary and applets give the same bytes: names in order, times and owners zero.
    """
    folders = ("bin", "dev", "etc", "home", "proc", "root", "run", "sys", "usr", "var", "work")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in folders:
            tar.addfile(_entry(name, kind=tarfile.DIRTYPE, mode=0o755))
        tar.addfile(_entry("tmp", kind=tarfile.DIRTYPE, mode=0o1777))
        for name, text in (("etc/group", _GROUP), ("etc/passwd", _PASSWD)):
            tar.addfile(_entry(name, size=len(text)), io.BytesIO(text.encode()))
        tar.addfile(_entry("bin/busybox", mode=0o755, size=len(binary)), io.BytesIO(binary))
        for applet in sorted(set(applets) - {"busybox"}):
            link = _entry(f"bin/{applet}", kind=tarfile.SYMTYPE, mode=0o777)
            link.linkname = "busybox"
            tar.addfile(link)
    return out.getvalue()


def _entry(
    name: str, *, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, size: int = 0
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.mtime = kind, mode, size, 0
    return info


def tag_of(content: bytes) -> str:
    """Twelve hex digits of the content's SHA-256."""
    return hashlib.sha256(content).hexdigest()[:12]


# --- other root file systems --------------------------------------------------------


def _rootfs(path: str) -> tuple[str, bytes, str]:
    place = Path(path)
    stem = "".join(c if c.isalnum() else "-" for c in place.name.split(".")[0].lower()).strip("-")
    try:
        if place.is_dir():
            tar = directory_tar(place)
        else:
            tar = place.read_bytes()
            if tar[:2] == b"\x1f\x8b":
                # The tag speaks of the content: two ways to squeeze it are one image.
                tar = gzip.decompress(tar)
    except OSError as error:
        raise EnvironmentInvalid(
            f"the root file system {path} can not be read: {error.strerror or error}"
        ) from error
    return stem or "rootfs", tar, tag_of(tar)


def directory_tar(folder: Path) -> bytes:
    """A directory as a tar that depends on its content alone (owners are root, times zero)."""
    out = io.BytesIO()

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
        info.pax_headers = {}
        return None if info.isdev() or info.isfifo() else info

    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for base, folders, files in os.walk(folder):
            folders.sort()
            links = [name for name in folders if os.path.islink(os.path.join(base, name))]
            real = [name for name in folders if name not in links]
            for name in sorted([*files, *links, *real]):
                full = os.path.join(base, name)
                tar.add(full, os.path.relpath(full, folder), recursive=False, filter=plain)
    return out.getvalue()


# --- references and builds ----------------------------------------------------------


def _outside(machine: RootRunner | None) -> str:
    """Open a machine's way to the network, where it has one to open; why it stays closed."""
    way = getattr(machine, "connect_outside", None)
    return "" if way is None else str(way())


def _reference(engine: Engine, ref: str, machine: RootRunner | None) -> str:
    found = engine.image(ref)
    if found.ok:
        return ref
    if found.http != 404:
        found.need(f"the image {ref}")
    closed = _outside(machine)
    pulled = engine.pull(ref, deadline=_DEADLINE)
    if pulled.ok:
        return ref
    raise EnvironmentInvalid(
        f"the engine has no image {ref}, and it can not be pulled",
        why=f"{pulled.failure}" + (f"\nno way out of the machine: {closed}" if closed else ""),
        mend=f"docker pull {ref} where there is a network and docker save/load it here,"
        " or {rootfs: busybox}, {rootfs: DIRECTORY-OR-TAR}, {build: DIRECTORY}",
    )


def _build(engine: Engine, folder: str, machine: RootRunner | None) -> str:
    place = Path(folder)
    if not (place / "Dockerfile").is_file():
        raise EnvironmentInvalid(
            f"no Dockerfile in {folder}",
            mend="write one, or use {rootfs: DIRECTORY} for a root file system without steps",
        )
    stem = "".join(c if c.isalnum() else "-" for c in place.name.lower()).strip("-") or "image"
    # The context's content names the image: an unchanged context is not built again.
    tag = f"{LABEL}/{stem}:{tag_of(directory_tar(place))}"
    if engine.image(tag).ok:
        return tag
    closed = _outside(machine)
    built = engine.build(folder, tag, labels={LABEL: "image"}, deadline=3600)
    if built.failure is not None:
        raise EnvironmentInvalid(
            f"the image of {folder} can not be built",
            why=f"{built.failure}" + (f"\nno way out of the machine: {closed}" if closed else ""),
        )
    return tag
