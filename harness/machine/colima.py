"""A colima profile: the VM that the users have, on macOS and on Linux.

Rule: the profile, its home and everything in it are ours, made for this machine and removed
with it; the user's own profiles, docker context and ssh configuration are never touched,
unless the matrix names a profile and says `own: true`. `list` and `status` repeat what was
asked for: what the VM really has is read back from inside. Every call has a deadline,
since `status` hangs on a frozen guest and every failure is exit code 1 with words.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import pwd
import re
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Self

from harness import clock, lease, process
from harness.errors import EnvironmentInvalid
from harness.machine import guest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.machine import MachineFacts, ProbeSite

GIB = 1 << 30
START_DEADLINE = 1500.0
"""limactl itself waits ten minutes, and a first start may fetch an image before that."""
STOP_DEADLINE = 240.0
"""limactl waits three minutes for a guest that does not power off."""
CALL_DEADLINE = 30.0

DEFAULTS = ("--mount none", "--binfmt=false", "--activate=false", "--ssh-config=false",
            "--template=false", "--save-config=false")  # fmt: skip
"""What would change the user's system or the guest for nothing. `--save-config=false`: colima
writes its file before it looks whether the VM runs."""

# The longest file there is "_lima/colima-abcd/ssh.sock." and 16 characters of ssh's own.
_LONGEST_HOME = (104 if platform.system() == "Darwin" else 108) - 46
_SLACK = 0.10
"""The guest's kernel keeps some memory (5.6 % of 1 GiB was seen), ext4 some of the disk."""

_FATAL = re.compile(r'level=(?:fatal|error) msg="((?:[^"\\]|\\.)*)"|FATA\[\d+\] (.*)')


class Colima:
    """One profile.

    Args:
        memory, disk: Bytes; colima takes the disk in whole GiB, the memory in MiB.
        cpus: Whole processors.
        user: Whom colima runs as when we are root: limactl refuses root.
        profile: A profile of the user's, to be stopped and started as asked: needs own=True.
        flags: The user's own, after ours.
        places, start_deadline: As of any machine.
    """

    kind = "colima"

    def __init__(
        self,
        *,
        memory: int | None = None,
        cpus: float | None = None,
        disk: int | None = None,
        user: str | None = None,
        profile: str | None = None,
        own: bool = False,
        vm_type: str | None = None,
        mount_type: str | None = None,
        mounts: Sequence[str] = (),
        disk_image: str | None = None,
        arch: str | None = None,
        flags: Sequence[str] = (),
        places: lease.Places | None = None,
        start_deadline: float = START_DEADLINE,
    ) -> None:
        refuse(memory=memory, cpus=cpus, disk=disk, profile=profile, own=own)
        self.asked: dict[str, float | int | None] = {"memory": memory, "cpus": cpus, "disk": disk}
        self.user, self.start_deadline = user, start_deadline
        self.choices = {
            "--vm-type": vm_type, "--mount-type": mount_type, "--disk-image": disk_image,
            "--arch": None if arch == "host" else arch,
        }  # fmt: skip
        self.mounts, self.flags = tuple(mounts), tuple(flags)
        self.ours = profile is None
        self.profile = profile or "w1"
        self.name = "colima"
        self._places = places or lease.places()
        self._lease: lease.Lease | None = None
        self._home: Path | None = None
        self._guest: guest.Guest | None = None
        self._boot = ""

    # --- calling ------------------------------------------------------------------

    @property
    def home(self) -> Path:
        """COLIMA_HOME."""
        if self._home is None:
            raise EnvironmentInvalid("this colima machine was not started")
        return self._home

    @property
    def instance(self) -> str:
        """What Lima calls the profile: "colima" for the default one, else "colima-<profile>"."""
        return "colima" if self.profile == "default" else f"colima-{self.profile}"

    @property
    def _folder(self) -> Path:
        """Lima's directory of the instance: pids, logs, ssh.config."""
        return self.home / "_lima" / self.instance

    def _call(self, *argv: str, deadline: float = CALL_DEADLINE) -> process.Result:
        return call(("colima", *argv), home=self._home, user=self.user, deadline=deadline)

    def _offered(self) -> str:
        """The help text of `start`: which flags this version knows."""
        said = self._call("start", "--help")
        text = said.text + said.err.decode(errors="replace")
        if "--runtime" not in text:
            raise EnvironmentInvalid("colima does not answer", why=said.why(), mend=_mend())
        return text

    def arguments(self, offered: str) -> list[str]:
        """The arguments of `start` for a colima whose help text is `offered`.

        Raises:
            EnvironmentInvalid: something was asked for that this version does not offer.
        """
        argv = ["start", "-p", self.profile]
        if self.ours:
            argv += ["--runtime", "docker"]
        for flag in DEFAULTS:
            name, _, value = flag.partition(" ")
            if name == "--mount" and (self.mounts or not self.ours):
                continue
            if _knows(offered, name.partition("=")[0]):
                argv += [name, value] if value else [name]
        for mount in self.mounts:
            argv += ["--mount", mount]
        memory, cpus, disk = (self.asked[key] for key in ("memory", "cpus", "disk"))
        if cpus is not None:
            # Called --cpu before 0.9.
            argv += ["--cpus" if _knows(offered, "--cpus") else "--cpu", str(int(cpus))]
        if memory is not None:
            # colima multiplies by 1024 and cuts: a binary fraction arrives as it is.
            argv += ["--memory", repr((int(memory) >> 20) / 1024).removesuffix(".0")]
        if disk is not None:
            argv += ["--disk", str(int(disk) // GIB)]
        for flag, choice in self.choices.items():
            if choice is None:
                continue
            if flag == "--vm-type" and choice == "qemu" and not _knows(offered, flag):
                continue  # Linux has nothing else and no flag for it
            if not _knows(offered, flag):
                raise EnvironmentInvalid(
                    f"this colima has no {flag} (asked for: {choice})",
                    why="the flag exists on macOS only, or in another version",
                    mend="leave it out of `machine`; colima version says which one this is",
                )
            argv += [flag, choice]
        if self.choices["--disk-image"] and _knows(offered, "--force-disk-image"):
            argv.append("--force-disk-image")
        return [*argv, *self.flags]

    # --- up -------------------------------------------------------------------------

    def start(self) -> None:
        """Up, settled, and of the size that was asked for; or EnvironmentInvalid."""
        self.stop()
        reason = why_not(self.user)
        if reason:
            raise EnvironmentInvalid("no colima here", why=reason, mend=_mend())
        try:
            self._start(clock.now() + int(self.start_deadline * clock.NS))
        except BaseException:
            self.stop()
            raise

    def _start(self, end: int) -> None:
        self._lease = lease.take("colima", where=self._places, stem="c")
        self.name = self._lease.name
        self._home = self._make_home()
        offered = self._offered()
        if not self.ours and self._status() == "Running":
            # A running VM takes no new sizes, says so only in a warning, and exits with 0.
            self._must(("stop", "-p", self.profile), STOP_DEADLINE)
        self._must(tuple(self.arguments(offered)), (end - clock.now()) / clock.NS)
        self._guest = guest.Guest(
            self._folder / "ssh.config", f"lima-{self.instance}", self._lease.folder, sudo=True
        )
        wait = guest.waiter(end, self._failed, lambda: "")
        self._guest.open(wait)
        self._settle(wait)
        facts = self.facts()
        self._boot = facts.boot_id
        self._compare(facts)

    def _make_home(self) -> Path | None:
        if not self.ours:
            return existing_home(self.user)
        assert self._lease is not None
        beside = Path(_passwd(self.user).pw_dir) / ".deathbench" / self.name
        # mkdir without -p refuses what somebody else put there.
        makes = 'mkdir -p "$1" && mkdir -m 700 "$2"'
        why = ""
        for home in (beside, Path("/tmp") / self.name):  # noqa: S108
            if len(str(home)) > _LONGEST_HOME:
                continue
            self._lease.owns(colima=f"{self.user or ''}:{home}")
            argv = ("sh", "-c", makes, "sh", str(home.parent), str(home))
            made = call(argv, home=None, user=self.user, deadline=CALL_DEADLINE)
            if made.ok:
                return home
            why = made.why()
        raise EnvironmentInvalid("no home for colima", where=str(beside), why=why)

    def _must(self, argv: tuple[str, ...], deadline: float) -> process.Result:
        done = self._call(*argv, deadline=deadline)
        said = (done.out + b"\n" + done.err).decode(errors="replace")
        if not done.ok or "already running, ignoring" in said:
            raise self._failed(_reason(done, said))
        return done

    def _failed(self, what: str) -> EnvironmentInvalid:
        return EnvironmentInvalid(
            f"colima profile {self.profile} did not come up: {what}",
            why=self.last_words() or "its logs are empty",
            mend=_mend(),
        )

    def last_words(self, lines: int = 6) -> str:
        """The ends of what Lima's host agent and the guest's console wrote."""
        parts: list[str] = []
        if self._home is None:
            return ""
        for name in ("ha.stderr.log", "ha.stdout.log", "serial.log", "serialv.log"):
            try:
                text = (self._folder / name).read_text(errors="backslashreplace")
            except OSError:
                continue
            parts += [f"{name}: {line[:300]}" for line in text.strip().splitlines()[-lines:]]
        return "\n".join(parts)

    def _settle(self, wait: Callable[[str, Callable[[], bool]], None]) -> None:
        """Each start restarts containerd and dockerd: wait until both have stayed for a while."""
        seen: list[tuple[int | None, ...]] = []
        since = clock.now()

        def stays() -> bool:
            nonlocal since
            now = tuple(self.inside.main_pid(name) for name in ("dockerd", "containerd"))
            if None in now or not seen or seen[-1] != now:
                seen.append(now)
                since = clock.now()
                return False
            return clock.seconds_since(since) > 3

        wait("its daemons do not settle", stays)

    def _compare(self, facts: MachineFacts) -> None:
        """What was asked for against what is inside."""
        wrong = []
        for key, asked in self.asked.items():
            has = facts.effective.get(key)
            if asked is None or has is None:
                continue
            least = asked if key == "cpus" else asked * (1 - _SLACK) - (64 << 20)
            most = asked if key == "cpus" else asked * 1.02
            if not least <= has <= most:
                wrong.append(f"{key}: {asked:g} asked for, the guest has {has:g}")
        if wrong:
            raise EnvironmentInvalid(
                f"colima profile {self.profile} is not of the size that was asked for",
                why="\n".join(wrong)
                + "\n(a colima disk only grows; `colima list` repeats what was asked)",
                mend="a profile of the harness's own (leave `profile` out) is made anew each time",
            )

    def _status(self) -> str:
        """Running, Stopped, Broken, or "" for none. `list` never looks inside, but never hangs."""
        for line in self._call("list", "--json").text.splitlines():
            try:
                said = json.loads(line)
            except ValueError:
                continue  # limactl's own words come on standard output too
            if isinstance(said, dict) and said.get("name") == self.profile:
                return str(said.get("status"))
        return ""

    # --- down -----------------------------------------------------------------------

    def stop(self) -> None:
        """Ours: stopped, deleted with its disks, and what it leaves running ended."""
        if self._guest is not None:
            self._guest.close()
            self._guest = None
        if self._lease is None:
            return
        if self.ours and self._home is not None:
            remove(f"{self.user or ''}:{self._home}")
        self._lease.release()
        self._lease = self._home = None

    def keep(self) -> None:
        """Leave it running when this process ends; `clean` removes it."""
        if self._guest is not None and self._lease is not None:
            self._guest.release()
            self._lease.keep()
            self._lease = self._guest = self._home = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- what it is -----------------------------------------------------------------

    @property
    def inside(self) -> guest.Guest:
        """Raises EnvironmentInvalid where there is none to speak to."""
        if self._guest is None:
            raise EnvironmentInvalid(f"colima profile {self.profile} does not run")
        return self._guest

    @property
    def docker_host(self) -> str:
        """Our own forward: Lima's dies with its ssh master and is never made again."""
        return f"unix://{self.inside.socket}"

    @property
    def socket(self) -> Path:
        return self.inside.socket

    def facts(self) -> MachineFacts:
        found = self.inside.facts(self.kind, profile=self.profile)
        versions = {**found.versions, **_about(self._call("version").text)}
        try:
            versions["lima"] = (self._folder / "lima-version").read_text().strip()
        except OSError:
            versions["lima"] = "?"
        return dataclasses.replace(found, versions=versions)

    def probe_site(self) -> ProbeSite:
        return self.inside.site(self.name, patience=90.0)

    def root(
        self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = 30.0
    ) -> process.Result:
        """Run as root in the guest by sudo; its exit code, or 255 where it is not reached."""
        if self._guest is None:
            return process.Result(tuple(argv), 255, b"", b"the profile does not run", 0.0)
        return self._guest.root(argv, stdin=stdin, deadline=deadline)

    def daemon(self, name: str, action: str, *, deadline: float = 90.0) -> int | None:
        """As `guest.Guest.daemon` says."""
        end = clock.now() + int(deadline * clock.NS)
        wait = guest.waiter(end, self._failed, lambda: "")
        return self.inside.daemon(name, action, deadline=deadline, wait=wait)

    # --- what a VM can suffer ---------------------------------------------------------

    def clock_step(self, seconds: float) -> None:
        """Lima sets the clock right again within ten seconds."""
        self.inside.clock_step(seconds)

    def power_cut(self) -> None:
        """Its QEMU is killed. VZ has no process of its own to kill."""
        os.kill(self._driver(), signal.SIGKILL)
        if self._guest is not None:
            self._guest.close()

    def freeze(self) -> None:
        os.kill(self._driver(), signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._driver(), signal.SIGCONT)

    def _driver(self) -> int:
        try:
            return int((self._folder / "qemu.pid").read_text())
        except (OSError, ValueError) as error:
            raise EnvironmentInvalid(
                f"no QEMU of colima profile {self.profile} runs", why=self.last_words()
            ) from error


# --- around it ------------------------------------------------------------------------


def _passwd(user: str | None) -> pwd.struct_passwd:
    return pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())


def existing_home(user: str | None) -> Path:
    """Where colima itself looks: COLIMA_HOME if it is there, ~/.colima, then XDG's place."""
    named = os.environ.get("COLIMA_HOME")
    if named and Path(named).is_dir():
        return Path(named)
    base = Path(_passwd(user).pw_dir)
    old = base / ".colima"
    if old.is_dir() or platform.system() == "Darwin":
        return old
    return Path(os.environ.get("XDG_CONFIG_HOME") or base / ".config") / "colima"


def call(
    argv: Sequence[str], *, home: Path | None, user: str | None, deadline: float
) -> process.Result:
    """Run one of colima's programs as it wants to be run: no root, its home, nobody's docker."""
    who = _passwd(user)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DOCKER_", "COLIMA_", "LIMA_"))}
    for key in ("COLIMA_CACHE_HOME", "LIMA_TEMPLATES_PATH"):
        if key in os.environ:
            env[key] = os.environ[key]
    env["HOME"] = who.pw_dir
    env["USER"] = env["LOGNAME"] = who.pw_name
    if home is not None:
        env["COLIMA_HOME"] = str(home)
        env["LIMA_HOME"] = str(home / "_lima")
        env["DOCKER_CONFIG"] = str(home / "docker")
    command = tuple(argv)
    if user and os.geteuid() == 0 and who.pw_uid != 0:
        for key in [k for k in env if k.startswith("XDG_")]:
            del env[key]
        command = ("runuser", "-u", user, "--", *command)
    cwd = str(home) if home is not None and home.is_dir() else "/"
    return process.run(command, deadline=max(deadline, 1.0), env=env, cwd=cwd)


def remove(owner: str) -> bool:
    """Delete everything of one of our homes ("user:path"); False when something stays.

    A VM that was killed leaves `limactl usernet` and an ssh master behind: found by the
    home in their arguments.
    """
    user, _, path = owner.partition(":")
    home = Path(path)
    if not home.name or home.parent.name not in {".deathbench", "tmp"}:
        return False  # not a home that we made
    if home.exists():
        for profile in sorted(p.name for p in home.iterdir() if (p / "colima.yaml").exists()) or [
            "w1"
        ]:
            for argv in (("stop", "-f", "-p", profile), ("delete", "-f", "--data", "-p", profile)):
                call(("colima", *argv), home=home, user=user or None, deadline=60)
    for one in _processes(str(home)):
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue
    clock.wait_until(lambda: not _processes(str(home)), deadline=5, every=0.05)
    shutil.rmtree(home, ignore_errors=True)
    return not home.exists()


def _processes(home: str) -> list[int]:
    """Of everybody whose arguments name that home; `ps` knows them on macOS too."""
    listed = process.run(("ps", "-axww", "-o", "pid=,args="), deadline=20)
    found = []
    for line in listed.text.splitlines():
        pid, _, argv = line.strip().partition(" ")
        if pid.isdigit() and f"{home}/" in argv and int(pid) != os.getpid():
            found.append(int(pid))
    return found


def _knows(offered: str, flag: str) -> bool:
    """Does a help text name this flag? "--cpus int", "-t, --vm-type string".

    >>> _knows("  -c, --cpus int   number", "--cpu"), _knows("  -c, --cpus int   n", "--cpus")
    (False, True)
    """
    return re.search(rf"{re.escape(flag)}(?![\w-])", offered) is not None


def _reason(done: process.Result, said: str) -> str:
    """colima fails with 1 whatever it was: the last fatal or error line says what.

    >>> r = process.Result(("colima",), 1, b"", b"", 1.0)
    >>> _reason(r, 'level=fatal msg="error starting vm: no \\\\"x\\\\""')
    'error starting vm: no "x"'
    """
    if done.timed_out:
        return f"no end of `{' '.join(done.argv[-4:])}` after {done.seconds:.0f} s"
    found = [a or b for a, b in _FATAL.findall(said)]
    if found:
        return str(found[-1]).replace('\\"', '"')
    if "already running, ignoring" in said:
        return "it was running already: the new sizes were not taken"
    return done.why()


def _about(text: str) -> dict[str, str]:
    """Of `colima version`.

    >>> _about("colima version v0.10.3\\ngit commit: 00f6c297\\n\\nruntime: docker\\n")
    {'colima': 'v0.10.3'}
    """
    match = re.search(r"^colima version (\S+)", text, re.MULTILINE)
    return {"colima": match[1]} if match else {}


def why_not(user: str | None = None) -> str:
    """Why there can be no colima machine here; "" when there can."""
    for program in ("colima", "limactl", "docker"):
        if process.which(program) is None:
            return f"{program} is not installed"
    if os.geteuid() == 0:
        if not user:
            return "limactl refuses root (machine.user names the user to run it as)"
        try:
            who = pwd.getpwnam(user)
        except KeyError:
            return f"there is no user {user} here (machine.user)"
        if who.pw_uid == 0:
            return f"limactl refuses root, and {user} is root"
    elif user and user != _passwd(None).pw_name:
        return f"only root can run colima as {user} (machine.user)"
    return ""


def refuse(
    *,
    memory: int | None = None,
    cpus: float | None = None,
    disk: int | None = None,
    inodes: int | None = None,
    profile: str | None = None,
    own: bool = False,
) -> None:
    """Refuse what colima can not do, or must not, before anything starts.

    Raises:
        EnvironmentInvalid: all reasons at once.
    """
    why = []
    if cpus is not None and (cpus != int(cpus) or cpus < 1):
        why.append(f"{cpus:g} CPUs asked for: a VM has whole processors")
    if cpus is not None and cpus > (os.cpu_count() or 1):
        why.append(f"{cpus:g} CPUs asked for, the host has {os.cpu_count()}")
    if memory is not None and memory >> 20 << 20 != memory:
        why.append(f"memory {memory} bytes asked for: colima takes whole MiB")
    total = _host_memory()
    if memory is not None and total is not None and memory > total:
        why.append(f"memory {memory} bytes asked for, the host has {total}")
    if disk is not None and disk % GIB:
        why.append(f"disk {disk} bytes asked for: colima takes whole GiB")
    if inodes is not None:
        why.append(f"{inodes} inodes asked for: colima has no such setting (pen and vm have)")
    if profile is not None and not own:
        why.append(f"profile {profile} is yours: say `own: true` to have it stopped and changed")
    if why:
        raise EnvironmentInvalid("colima can not do this", why="\n".join(why), mend=_mend())


def _host_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _mend() -> str:
    if platform.system() == "Darwin":
        return "brew install colima docker; or change `machine` in the matrix"
    return "install colima, lima, qemu and docker, or use machine: {kind: pen} or {kind: vm}"
