"""The VM's disk, kernel and first file system, made once and kept under /var/cache.

Rule: everything here is a function of the recipe below and of the mirror that this
system's own apt uses; what it makes is named by the recipe's hash, appears under that
name only when it is whole, and is never changed afterwards (a VM writes into an overlay).
What differs between two VMs is handed over at boot by `first_files`, not baked in.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import lzma
import os
import platform
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness import process
from harness.errors import EnvironmentInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CACHE = Path("/var/cache/deathbench")

INCLUDE = (
    "systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "docker.io", "iptables", "iproute2",
    "python3", "busybox-static", "kmod", "ca-certificates",
)  # fmt: skip
"""On top of debootstrap's minbase. No udev, no DHCP client, no network manager: the first file
system mounts the disks and sets the address, and a start waits for nobody."""

KERNELS = {"debian": "linux-image-cloud-amd64", "ubuntu": "linux-image-virtual"}
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "ext4", "crc32c_generic", "virtio_rng")
"""Needed before the root file system is there, in this order, dependencies first by modules.dep."""

ROOT_SIZE = 3 << 30
_DEADLINE = 900.0

FILES: Mapping[str, str] = {
    "etc/fstab": "",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/resolv.conf": "",
    "etc/ssh/sshd_config": (
        "HostKey /etc/ssh/ssh_host_ed25519_key\nPermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\nUsePAM no\nUseDNS no\nMaxSessions 100\nMaxStartups 100\n"
    ),
    "etc/systemd/system/ssh.service.d/quick.conf": (
        "[Unit]\nAfter=\nAfter=sysinit.target\n[Service]\nExecStartPre=\nType=simple\n"
        "OOMScoreAdjust=-900\n"
    ),
    # Plug-ins that cost seconds under emulation and that Docker does not use.
    "etc/containerd/config.toml": (
        'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri",'
        ' "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs",'
        ' "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",'
        ' "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing",'
        ' "io.containerd.tracing.processor.v1.otlp"]\n'
    ),
    "etc/systemd/journald.conf.d/keep.conf": "[Journal]\nStorage=persistent\nSystemMaxUse=64M\n",
    "etc/systemd/system.conf.d/quick.conf": "[Manager]\nDefaultTimeoutStopSec=10s\n",
    "etc/sudoers.d/everybody": "ALL ALL=(ALL) NOPASSWD: ALL\n",
}

MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "systemd-timesyncd.service", "getty@tty1.service",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "console-getty.service",
    "systemd-logind.service", "systemd-tmpfiles-clean.timer", "systemd-remount-fs.service", "logrotate.timer",
)  # fmt: skip

NO_DISK = "deathbench: no root disk"
"""What the first process says on the console where there is none."""

INIT = """\
#!/bin/busybox sh
# The first process: modules, disks, address, then the real init. Says what fails.
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sysfs /sys; $b mount -t devtmpfs dev /dev
while read -r m; do $b insmod "/modules/$m" || echo "deathbench: module $m"; done < /modules/order
$b mount -t ext4 -o rw,noatime /dev/vda /root || { echo "deathbench: no root disk"; $b sleep 5; $b poweroff -f; }
if [ -b /dev/vdb ]; then
  $b mount -t ext4 -o rw,noatime /dev/vdb /root/mnt/data || echo "deathbench: no data disk"
  for d in docker containerd; do
    $b mkdir -p /root/mnt/data/$d /root/var/lib/$d
    $b mount -o bind /root/mnt/data/$d /root/var/lib/$d
  done
fi
[ -d /first ] && $b cp -a /first/. /root/
$b ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up || echo "deathbench: no network"
$b route add default gw 10.0.2.2
$b umount /proc; $b umount /sys; $b umount /dev
exec $b switch_root /root /sbin/init
"""


@dataclass(frozen=True, slots=True)
class Image:
    """A finished image: a raw root disk (read only), a kernel, a first file system."""

    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "root.img"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    def facts(self) -> dict[str, str]:
        """{"kernel", "suite", "packages", …} as they were found when it was made."""
        said: dict[str, str] = json.loads((self.folder / "image.json").read_text())
        return said


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where this system's own packages come from."""

    system: str
    suite: str
    url: str
    components: tuple[str, ...]


def key(system: str, suite: str) -> str:
    """Hash of the recipe: twelve hex digits.

    >>> key("debian", "bookworm") == key("debian", "bookworm") != key("debian", "trixie")
    True
    """
    recipe = {
        "system": system, "suite": suite, "arch": platform.machine(), "include": INCLUDE,
        "kernel": KERNELS.get(system), "modules": MODULES, "files": dict(FILES),
        "masked": MASKED, "init": INIT, "size": ROOT_SIZE, "version": 1,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]


def system() -> tuple[str, str]:
    """(ID, VERSION_CODENAME) of this system; ("", "") where it does not say."""
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        return "", ""
    said = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', text, re.MULTILINE))
    return said.get("ID", ""), said.get("VERSION_CODENAME", "")


def mirror() -> Mirror:
    """Read from apt's own configuration.

    Raises:
        EnvironmentInvalid: this is no Debian or Ubuntu, or apt has no index of it.
    """
    name, suite = system()
    if name not in KERNELS:
        raise EnvironmentInvalid(
            f"no VM image can be made on {name or 'this system'}",
            why="it is made of the packages of Debian or Ubuntu",
            mend="copy /var/cache/deathbench from such a system",
        )
    listed = process.run(
        ("apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)",
         "Created-By: Packages"),
        deadline=60,
    )  # fmt: skip
    rows = [line.split() for line in listed.text.splitlines()]
    ours = [row for row in rows if len(row) == 3 and row[0] == suite]
    if not ours:
        raise EnvironmentInvalid(
            f"apt knows no source of {suite} here", why=listed.why(), mend="apt-get update"
        )
    url = ours[0][2]
    parts = tuple(dict.fromkeys(row[1] for row in ours if row[2] == url))
    return Mirror(name, suite, url, parts)


def cached(cache: Path = CACHE) -> Image | None:
    """The image of this recipe, if it has been made."""
    image = Image(cache / f"vm-{key(*system())}")
    return image if (image.folder / "image.json").exists() else None


def ensure(cache: Path = CACHE, *, say: Callable[[str], None] = lambda _: None) -> Image:
    """The image, made now if there is none; a second caller waits for the first.

    Raises:
        EnvironmentInvalid: it can not be made; the message has the last lines of what was
            tried. Nothing half made is left.
    """
    found = cached(cache)
    if found:
        return found
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentInvalid(
            f"no place for the VM's image: {error.strerror}", where=str(cache), mend="run as root"
        ) from error
    with _locked(cache / "vm.lock"):
        return cached(cache) or _build(cache, say)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(cache: Path, say: Callable[[str], None]) -> Image:
    if os.geteuid() != 0:
        raise EnvironmentInvalid("the VM's image is made by root", mend="run once as root")
    source = mirror()
    final = cache / f"vm-{key(source.system, source.suite)}"
    for left in cache.glob("vm-*.new"):  # we hold the lock: their makers are dead
        shutil.rmtree(left)
    fresh = final.with_suffix(".new")
    fresh.mkdir()
    root = fresh / "root"
    try:
        say(f"making the VM's image of {source.system} {source.suite} packages (once)")
        _bootstrap(source, root)
        kernel = _kernel(source, fresh, root)
        _settle(root)
        (fresh / "vmlinuz").write_bytes((root / "boot" / f"vmlinuz-{kernel}").read_bytes())
        (fresh / "initrd").write_bytes(_initrd(root, kernel))
        shutil.rmtree(root / "boot")
        _disk(root, fresh / "root.img")
        versions = _versions(root)
        shutil.rmtree(root)
        (fresh / "image.json").write_text(
            json.dumps({"kernel": kernel, "suite": source.suite, **versions}, indent=1)
        )
        fresh.rename(final)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return Image(final)


def _do(*argv: str, what: str, deadline: float = _DEADLINE, cwd: Path | None = None) -> str:
    """A step of the build; its last lines in the message when it fails."""
    done = process.run(argv, deadline=deadline, env=_environment(), cwd=cwd)
    if not done.ok:
        said = (done.out + done.err).decode(errors="replace").strip().splitlines()
        raise EnvironmentInvalid(
            f"the VM's image could not be made: {what}",
            why=done.why() + "\n" + "\n".join(said[-8:]),
            mend="apt-get update; apt-get install debootstrap; then again",
        )
    return done.text


def _environment() -> dict[str, str]:
    """debootstrap fetches by itself: it is told of the proxy that apt uses."""
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C.UTF-8",
        # A build that is cut short is thrown away whole: dpkg need not wait for the disk.
        "DPKG_FORCE": "unsafe-io",
    }
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        if os.environ.get(name):
            environment[name] = os.environ[name]
    said = process.run(("apt-config", "shell", "P", "Acquire::http::Proxy"), deadline=20)
    if (match := re.match(r"P='(.+)'", said.text)) and match[1] != "DIRECT":
        environment.setdefault("http_proxy", match[1])
    return environment


def _bootstrap(source: Mirror, root: Path) -> None:
    _do(
        "debootstrap", "--variant=minbase", "--merged-usr",
        f"--components={','.join(source.components)}", f"--include={','.join(INCLUDE)}",
        source.suite, str(root), source.url,
        what="debootstrap",
    )  # fmt: skip


def _kernel(source: Mirror, fresh: Path, root: Path) -> str:
    """Unpack the kernel's package instead of installing it: nobody here needs an initramfs tool."""
    wanted, files = [KERNELS[source.system]], fresh / "debs"
    seen: set[str] = set()
    files.mkdir()
    while wanted:
        package = wanted.pop()
        seen.add(package)
        said = _do("apt-cache", "depends", "-i", package, what=f"apt-cache depends {package}")
        found = re.findall(r"Depends: (linux-(?:image|modules)-\S+)", said)
        wanted += [other for other in found if other not in seen]
    _do(
        "apt-get", "-o", "APT::Sandbox::User=root", "download", *sorted(seen),
        what="fetching the kernel", cwd=files,
    )  # fmt: skip
    for file in sorted(files.glob("*.deb")):
        # Not into the root itself: its /lib is a link, which unpacking would replace.
        _do("dpkg-deb", "-x", str(file), str(fresh / "kernel"), what=f"unpacking {file.name}")
    shutil.rmtree(files)
    modules = next(p for p in (fresh / "kernel").glob("**/lib/modules/*") if p.is_dir())
    name = modules.name
    shutil.copytree(modules, root / "usr/lib/modules" / name, symlinks=True)
    (root / "boot").mkdir(exist_ok=True)
    shutil.copy(fresh / "kernel/boot" / f"vmlinuz-{name}", root / "boot")
    shutil.rmtree(fresh / "kernel")
    _do("chroot", str(root), "depmod", name, what="depmod")
    return name


def _settle(root: Path) -> None:
    """Files, masks and what need not be there."""
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
    (root / "etc/sudoers.d/everybody").chmod(0o440)
    for unit in MASKED:
        (root / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    default = root / "etc/systemd/system/default.target"
    default.unlink(missing_ok=True)
    default.symlink_to("/lib/systemd/system/multi-user.target")
    for folder in ("mnt/data", "var/log/journal", "root/.ssh"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "root/.ssh").chmod(0o700)
    for key_file in (root / "etc/ssh").glob("ssh_host_*"):
        key_file.unlink()  # each VM gets its own at boot
    for folder in ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/lib/apt/lists",
                   "var/cache/apt", "debootstrap"):  # fmt: skip
        shutil.rmtree(root / folder, ignore_errors=True)
    for device in (root / "dev").iterdir():
        if not device.is_dir():
            device.unlink()


def _disk(root: Path, path: Path) -> None:
    with path.open("wb") as f:
        os.truncate(f.fileno(), ROOT_SIZE)
    _do(
        process.which("mkfs.ext4") or "mkfs.ext4", "-q", "-F", "-m", "0", "-d", str(root), str(path),
        what="writing the disk",
    )  # fmt: skip


def _versions(root: Path) -> dict[str, str]:
    names = ("docker.io", "containerd", "runc", "systemd", "openssh-server", "python3")
    said = _do(
        "dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package} ${Version}\n",
        *names, what="reading versions",
    )  # fmt: skip
    return dict(line.split(" ", 1) for line in said.splitlines())


def _initrd(root: Path, kernel: str) -> bytes:
    base = root / "usr/lib/modules" / kernel
    order = module_order((base / "modules.dep").read_text(), MODULES)
    files: dict[str, tuple[int, bytes]] = {
        "bin/busybox": (0o755, _busybox(root)),
        "init": (0o755, INIT.encode()),
        "modules/order": (
            0o644,
            "".join(f"{_plain(m)}\n" for m in order).encode(),
        ),
    }
    for module in order:
        files[f"modules/{_plain(module)}"] = (0o644, _unpacked(base / module))
    return cpio(files, folders=("proc", "sys", "dev", "root"))


def _plain(module: str) -> str:
    """Its file's name without a compression's ending: busybox inserts plain files only."""
    return re.sub(r"\.ko\.\w+$", ".ko", Path(module).name)


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".zst":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(content)
    return gzip.decompress(content) if path.suffix == ".gz" else content


def _busybox(root: Path) -> bytes:
    for place in ("usr/bin/busybox", "bin/busybox"):
        if (root / place).exists():
            return (root / place).read_bytes()
    raise EnvironmentInvalid("busybox-static brought no busybox into the VM's image")


def module_order(dep: str, wanted: tuple[str, ...]) -> list[str]:
    """Files to insert, dependencies first; what is built in has no file and is left out.

    dep: text of modules.dep: "a.ko: b.ko c.ko", the last one needed first.

    >>> module_order("k/a.ko: k/b.ko k/c.ko\\nk/b.ko: k/c.ko\\nk/c.ko:\\n", ("a", "x"))
    ['k/c.ko', 'k/b.ko', 'k/a.ko']
    """
    needs = {}
    for line in dep.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    stems = {re.sub(r"\.ko(\.\w+)?$", "", Path(n).name).replace("-", "_"): n for n in needs}
    order: list[str] = []
    for stem in wanted:
        name = stems.get(stem)
        if name is None:
            continue
        for each in (*reversed(needs[name]), name):
            if each not in order:
                order.append(each)
    return order


def cpio(files: Mapping[str, tuple[int, bytes]], *, folders: tuple[str, ...] = ()) -> bytes:
    """A cpio archive ("newc") of regular files (name → mode, content) owned by root.

    The kernel unpacks one archive after the other from one initrd: a VM's own files are
    simply appended. Folders of the files' names are made.
    """
    made: dict[str, None] = {}
    for name in (*files, *(f"{folder}/x" for folder in folders)):
        parts = name.split("/")[:-1]
        for i in range(1, len(parts) + 1):
            made["/".join(parts[:i])] = None
    entries = [(name, 0o040000 | (0o700 if name.endswith(".ssh") else 0o755), b"") for name in made]
    entries += [(name, 0o100000 | mode, content) for name, (mode, content) in files.items()]
    out = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + content
        out += b"\0" * (-len(out) % 4)
    return bytes(out + b"\0" * (-len(out) % 512))


def first_files(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """What one VM finds on its root disk beside the image's: appended to the initrd."""
    return cpio({f"first/{name}": entry for name, entry in files.items()})
