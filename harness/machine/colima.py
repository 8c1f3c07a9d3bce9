"""A colima profile: the VM that the users have, on macOS and on Linux.

Rule: the profile, its home and everything in it are ours, made for this machine and removed
with it; the user's own profiles, docker context and ssh configuration are never touched,
unless the matrix names a profile and says `own: true`. `list` and `status` repeat what was
asked for: what the VM really has is read back from inside.
"""

from __future__ import annotations

import dataclasses
import signal
from typing import TYPE_CHECKING, Self

from harness import clock, lease, process
from harness.errors import EnvironmentInvalid
from harness.machine import colima_call, colima_home, colima_own, colima_start, guest, lima
from harness.machine.colima_start import Wish
from harness.machine.virtual import Virtual
from harness.model.sizes import differs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from harness.machine import MachineFacts

START_DEADLINE = 1500.0
"""limactl itself waits ten minutes, and a first start may fetch an image before that."""
STOP_DEADLINE = 240.0
"""limactl waits three minutes for a guest that does not power off."""
SETTLED = 3.0
"""Seconds that both daemons must have stayed: a start restarts them one after the other."""

_SHORT = {"memory": (0.10, 64 << 20), "disk": (0.10, 64 << 20), "cpus": (0.0, 0)}
"""How much less than asked is still what was asked for: the kernel keeps some memory (5.6 % of
1 GiB was seen), ext4 some of the disk. More than that is another machine."""
_OVER = 1.02


class Colima(Virtual):
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
        colima_start.refuse(
            memory=memory, cpus=cpus, disk=disk, profile=profile, own=own, arch=arch
        )
        self.wish = Wish(
            memory=memory, cpus=cpus, disk=disk,
            profile=colima_home.short(profile) if profile else colima_home.PROFILE,
            ours=profile is None,
            vm_type=vm_type, mount_type=mount_type, mounts=tuple(mounts),
            disk_image=disk_image, arch=arch, flags=tuple(flags),
        )  # fmt: skip
        self.user, self.start_deadline = user, start_deadline
        self.name = "colima"
        self._places = places or lease.places()
        self._lease: lease.Lease | None = None
        self._home: Path | None = None
        self._private: Path | None = None
        self._folder: Path | None = None
        self._warned: list[str] = []

    @property
    def home(self) -> Path:
        """COLIMA_HOME."""
        if self._home is None:
            raise EnvironmentInvalid("this colima machine was not started")
        return self._home

    @property
    def profile(self) -> str:
        return self.wish.profile

    @property
    def instance(self) -> lima.Instance:
        """Lima's: "colima" for the default profile, else "colima-<profile>"."""
        if self._folder is None:
            raise EnvironmentInvalid("this colima machine was not started")
        return lima.Instance(self._folder)

    def call(self, *argv: str, deadline: float = colima_call.CALL_DEADLINE) -> process.Result:
        """One call of colima for this home, as the right user; `deadline` in seconds."""
        return colima_call.call(
            ("colima", *argv), home=self._home, private=self._private, user=self.user,
            deadline=deadline,
        )  # fmt: skip

    # --- up -------------------------------------------------------------------------

    def start(self) -> None:
        """Up, settled, and of the size that was asked for; or EnvironmentInvalid."""
        self.stop()
        reason = colima_start.why_not(self.user)
        if reason:
            raise EnvironmentInvalid("no colima here", why=reason, mend=colima_start.mend())
        try:
            self._start(clock.now() + int(self.start_deadline * clock.NS))
        except BaseException:
            self.stop()
            raise

    def _start(self, end: int) -> None:
        self._lease = lease.take("colima", where=self._places, stem="c")
        self.name = self._lease.name
        # The user's docker contexts are not colima's to make and remove on our behalf: what is
        # called for a profile of his has a directory of ours for that, too.
        self._private = colima_home.make(self._lease, self.user)
        if self.wish.ours:
            self._home = self._private
            self._folder = self._home / "_lima" / colima_home.instance(self.profile)
            status = ""
        else:
            theirs = colima_own.refuse(self.profile, disk=self.wish.disk, user=self.user)
            self._home, self._folder, status = theirs.home, theirs.folder, theirs.status
        argv = colima_start.arguments(
            self.wish, self._offered(), nothing=str(self._private / "none")
        )
        if status in ("Running", "Broken"):
            # A running VM takes no new sizes, says so only in a warning, and exits with 0;
            # a broken one does not start, and only force stops it.
            force = ("-f",) if status == "Broken" else ()
            self._must(("stop", *force, "-p", self.profile), STOP_DEADLINE)
        done = self._must(tuple(argv), (end - clock.now()) / clock.NS)
        self._warned = colima_call.warnings(done)
        discarded = [w for w in self._warned if "discarded" in w or "only available" in w]
        if discarded:
            raise EnvironmentInvalid(
                f"colima profile {self.profile} did not take all that was asked for",
                why="\n".join(discarded),
                mend="processor, vm_type and mount_type are fixed when a profile is made: leave them"
                " out, or leave `profile` out and one is made that has them",
            )
        folder = self.instance.folder
        # Our own connections: Lima's forward dies with its ssh master and is never made again.
        self._guest = guest.Guest(
            folder / "ssh.config", f"lima-{folder.name}", self._lease.folder, sudo=True
        )
        wait = self._waiter(end)
        self._guest.open(wait)
        self._settle(wait)
        self._compare(self.facts())
        # What serves the VM's ports outlives it and keeps connections to nobody open.
        self._witness(self.instance)

    def _offered(self) -> str:
        """The help text of `start`: which flags this version knows."""
        said = self.call("start", "--help")
        text = colima_call.words(said)
        if "--runtime" not in text:
            raise EnvironmentInvalid(
                "colima does not answer", why=colima_call.reason(said), mend=colima_start.mend()
            )
        return text

    def _must(self, argv: tuple[str, ...], deadline: float) -> process.Result:
        done = self.call(*argv, deadline=deadline)
        if not done.ok or colima_call.was_running(done):
            raise self._failed(colima_call.reason(done))
        return done

    def _failed(self, what: str) -> EnvironmentInvalid:
        words = self.instance.last_words() if self._folder is not None else ""
        return EnvironmentInvalid(
            f"colima profile {self.profile} did not come up: {what}",
            why=words or "its logs are empty",
            mend=_mend(f"{what}\n{words}") or colima_start.mend(),
        )

    def _settle(self, wait: Callable[[str, Callable[[], bool]], None]) -> None:
        """Each start restarts containerd and dockerd: wait until both have stayed for a while."""
        seen: tuple[int | None, ...] = ()
        since = clock.now()

        def stay() -> bool:
            nonlocal seen, since
            now = tuple(self.inside.main_pid(name) for name in ("dockerd", "containerd"))
            if None in now or seen != now or not guest.answers(self.socket):
                seen, since = now, clock.now()
                return False
            return clock.seconds_since(since) > SETTLED

        wait("its daemons do not settle", stay)

    def _compare(self, facts: MachineFacts) -> None:
        """What was asked for against what is inside: another machine is refused, with numbers."""
        wrong = [
            differs(key, asked, has)
            for key, asked in self.wish.sizes.items()
            if (has := facts.effective.get(key)) is not None and not _is_meant(key, asked, has)
        ]
        made = self.instance.kinds()
        wrong += [
            f"{key}: {asked} asked for, {made[key]} made"
            for key, asked in self.wish.kinds.items()
            if made.get(key, asked) != asked
        ]
        if wrong:
            raise EnvironmentInvalid(
                f"colima profile {self.profile} is not what was asked for",
                why="\n".join([*wrong, *self._excuses()])
                + "\n(`colima list` repeats what was asked)",
                mend="a profile of the harness's own (leave `profile` out) is made anew each time",
            )

    def _excuses(self) -> list[str]:
        """What colima and Lima themselves said of a size that they did not give."""
        reduced = [f.text for f in self.instance.facts() if f.what == "memory-reduced"]
        return [f"it warned: {words}" for words in (*self._warned, *reduced)]

    # --- down -----------------------------------------------------------------------

    def stop(self) -> None:
        """Ours: stopped, deleted with its disks, and what it leaves running ended."""
        self._hang_up()
        if self._lease is None:
            return
        if self._private is not None:
            colima_home.remove(f"{self.user or ''}:{self._private}")
        self._lease.release()
        self._lease = self._home = self._private = self._folder = None

    def keep(self) -> None:
        """Leave it running when this process ends; `clean` removes it."""
        self._look_away()
        if self._guest is not None and self._lease is not None:
            self._guest.release()
            self._lease.keep()
            self._lease = self._guest = self._home = self._private = self._folder = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- what it is -----------------------------------------------------------------

    def facts(self) -> MachineFacts:
        found = self.inside.facts(self.kind, profile=self.profile)
        versions = {
            **found.versions,
            "colima": colima_call.version(self.call("version").text) or "?",
            "lima": self.instance.version(),
            **self.instance.kinds(),
        }
        return dataclasses.replace(found, versions=versions, asked=self.wish.sizes)

    # --- what a VM can suffer ---------------------------------------------------------

    def power_cut(self) -> None:
        """Its hypervisor is killed between two instructions; nothing starts it again."""
        self.instance.signal(signal.SIGKILL)

    def freeze(self) -> None:
        self.instance.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.instance.signal(signal.SIGCONT)


def _is_meant(key: str, asked: float, has: float) -> bool:
    share, amount = _SHORT[key]
    return asked * (1 - share) - amount <= has <= asked * _OVER


def _mend(words: str) -> str:
    """What helps, where the host agent's words tell; "" where they do not."""
    if "did not receive an event with the `running` status" in words:
        return (
            "Lima waits ten minutes for a guest: try again when this host is less busy, with KVM,"
            " or with more cpus"
        )
    if "did not start up in" in words:
        return "this host was too busy to start Lima's host agent in five seconds: try again"
    if "Could not access KVM kernel module" in words:
        return "let that user into the group kvm (usermod -aG kvm NAME), and log in anew"
    if "Address already in use" in words:
        return "another VM holds a port that Lima wants: stop it, or try again"
    return ""
