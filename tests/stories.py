"""Hand-made histories in the shapes that real sources write, for the tests of the judge.

A Story tells one trial in milliseconds from its beginning. What a source would say by
itself (it is there, its clock, who the daemons are) is said at the head.
"""

from __future__ import annotations

from harness import events as e

C = "c0" * 32
OTHER = "d1" * 32
MAIN = 4200
SHIM = 4100
DOCKERD = 700
CONTAINERD = 650
BASE = 5_000_000_000_000
WALL = 1_790_000_000_000_000_000
SOURCES = (
    "trace", "proc", "lineage", "kernel", "cgroup", "pidfd", "docker", "daemons", "daemon-log",
    "machine", "mounts", "network",
)  # fmt: skip
MACHINE = "/pen"


class Story:
    """Events of one trial. Times are ms since it began; every method returns the story."""

    def __init__(self, *, limit=64 << 20, sources=SOURCES, cgroup=2, remount=False):
        self.events = []
        self.main = MAIN
        self.container = C
        self.limit = limit
        self.version = cgroup
        self.sources = sources
        self.say(
            -1000,
            e.Hello,
            source="probe",
            version=1,
            boot_id="boot-1",
            kernel="6.18",
            python="3.11",
            cgroup=cgroup,
            hz=100,
            monitors="light",
            pid=99,
        )
        for name in sources:
            self.say(-900, e.SourceState, source=name, name=name, state="active")
        self.clock(-800)
        if "daemons" in sources:
            self.daemon(-700, "dockerd", DOCKERD)
            self.daemon(-700, "containerd", CONTAINERD)
        self.harness(0, e.Phase, phase="prepare", edge="begin")
        self.container_is(1, C)

    # --- plumbing ---

    def say(self, ms, kind, *, source, clock="machine", late=1, **fields):
        t = BASE + int(ms * 1e6)
        self.events.append(
            kind(t=t, seen=t + int(late * 1e6), source=source, clock=clock, **fields)
        )
        return self

    def harness(self, ms, kind, **fields):
        return self.say(ms, kind, source="runner", clock="harness", late=0, **fields)

    def clock(self, ms):
        if "probe-less" in self.sources:
            return self
        t = BASE + int(ms * 1e6)
        self.say(
            ms, e.ClockReading, source="clock", boot=t, wall=t + WALL, mono=t, kmsg=0, error=300
        )
        return self.harness(ms, e.ClockLink, offset=0, error=50_000)

    # --- the usual beginning and end ---

    def container_is(self, ms, container, role="subject", **config):
        return self.harness(
            ms,
            e.ContainerRef,
            role=role,
            container=container,
            name="main",
            image="busybox:1",
            limits={"Memory": self.limit or 0, "NetworkMode": "bridge"},
            config=config,
        )

    def run(self, ms=10, container=C, pid=MAIN, shim=SHIM, init=True, call=True):
        """Created and started: everything a start leaves."""
        if call:
            self.harness(ms, e.ApiCall, call="start", container=container, edge="request")
        if self.on("daemons"):
            self.daemon(ms + 20, "shim", shim, container=container)
        if self.on("trace"):
            self.say(
                ms + 45,
                e.MainProcess,
                source="main",
                container=container,
                pid=pid,
                start=(BASE + int((ms + 30) * 1e6)) * 100 // 10**9,
                nspids=[pid, 1] if init else [pid],
                cgroup=self.home(container),
                name="sh",
            )
        limit = str(self.limit) if self.limit else "max"
        if self.on("cgroup"):
            self.cgroup(
                ms + 46,
                {
                    "memory.max": limit,
                    "memory.events": "oom 0\noom_kill 0",
                    "memory.events.local": "oom 0\noom_kill 0",
                    "pids.max": "64",
                    "pids.events": "max 0",
                },
                container=container,
            )
            self.say(
                ms + 46,
                e.MachineSample,
                source="machine",
                memory={},
                load=[],
                processes=3,
                pressure={},
                disks={
                    "/data": {
                        "total": 1 << 30,
                        "free": 1 << 29,
                        "inodes": 9,
                        "inodes_free": 5,
                        "device": 2049,
                    }
                },
            )
            self.say(
                ms + 46,
                e.CgroupSample,
                source="cgroup",
                container=None,
                scope="machine",
                path=MACHINE,
                files={"memory.max": str(1 << 30), "memory.events.local": "oom 0\noom_kill 0"},
            )
        if self.on("mounts"):
            self.say(
                ms + 60,
                e.MountChange,
                source="mounts",
                container=container,
                removed=[],
                added=[
                    "30 20 0:40 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w",
                    "31 30 8:1 /src /work rw,relatime - ext4 /dev/loop0 rw",
                ],
            )
        self.docker(ms + 62, "start", container=container)
        if call:
            self.harness(
                ms + 65, e.ApiCall, call="start", container=container, edge="answer", http=204
            )
        self.harness(ms + 66, e.Phase, phase="start", edge="end")
        return self

    def pre_task(
        self,
        ms,
        end=None,
        *,
        exit_code=0,
        http=200,
        error=None,
        output="",
        timed_out=False,
        container=C,
    ):
        self.harness(ms, e.Phase, phase="pre-task", edge="begin")
        self.harness(ms, e.Exec, label="pre-task", container=container, edge="request")
        end = ms + 40 if end is None else end
        if exit_code is not None and error is None:
            self.harness(
                ms + 3, e.Exec, label="pre-task", container=container, edge="created", exec_id="ee"
            )
            self.harness(
                ms + 5, e.Exec, label="pre-task", container=container, edge="started", exec_id="ee"
            )
        self.harness(
            end,
            e.Exec,
            label="pre-task",
            container=container,
            edge="answer",
            exec_id=None if error else "ee",
            exit_code=exit_code,
            http=http,
            error=error,
            output=output,
            seconds=(end - ms) / 1e3,
            timed_out=timed_out,
        )
        return self.harness(end, e.Phase, phase="pre-task", edge="end")

    def over(
        self,
        ms=9000,
        *,
        status="exited",
        code=None,
        oom=False,
        error="",
        container=C,
        finished=None,
    ):
        """The post-mortem and the clean-up."""
        state = {
            "Status": status,
            "Running": status in ("running", "paused"),
            "OOMKilled": oom,
            "Error": error,
            "ExitCode": 0 if code is None else code,
        }
        self.harness(ms, e.Phase, phase="post-mortem", edge="begin")
        self.harness(
            ms + 5,
            e.Status,
            label="post-mortem",
            container=container,
            by="inspect",
            state=state,
            http=200,
        )
        self.harness(ms + 6, e.Logs, container=container, text="")
        self.clock(ms + 7)
        self.harness(ms + 10, e.Phase, phase="clean", edge="begin")
        return self

    # --- what sources say ---

    def on(self, source):
        return source in self.sources

    def home(self, container=C):
        return f"{MACHINE}/docker/{container}"

    def daemon(self, ms, name, pid, state="alive", container=None, status=None):
        if not self.on("daemons"):
            return self
        return self.say(
            ms,
            e.DaemonState,
            source="daemons",
            daemon=name,
            pid=pid,
            start=pid * 10,
            state=state,
            container=container,
            status=status,
        )

    def docker(self, ms, action, container=C, **attributes):
        if not self.on("docker"):
            return self
        t = BASE + int(ms * 1e6)
        return self.say(
            ms,
            e.DockerEvent,
            source="docker",
            type="container",
            action=action,
            id=container,
            wall=t + WALL,
            attributes={k: str(v) for k, v in attributes.items()},
        )

    def signal(
        self,
        ms,
        sig,
        pid,
        *,
        sender,
        comm,
        code=0,
        res=0,
        grp=1,
        place=None,
        home=None,
        container=C,
        ancestors=(),
    ):
        if not self.on("trace"):
            return self
        text = (
            f"{comm:>16}-{sender:<7} [001] d..2. {self.stamp(ms)}: signal_generate: sig={sig} errno=0 code={code} "
            f"comm=sh pid={pid} grp={grp} res={res}"
        )
        self.say(ms, e.TraceLine, source="trace", instance="A", text=text, tgid=sender)
        if place is not None:
            self.say(
                ms,
                e.SignalSender,
                source="sender",
                pid=sender,
                name=comm,
                signal=sig,
                to=pid,
                container=container,
                place=place,
                home=home,
                ancestors=list(ancestors),
            )
        return self

    def stamp(self, ms):
        return f"{(BASE + int(ms * 1e6)) / 1e9:.6f}"

    def victim(self, ms, pid, comm="hog"):
        if not self.on("trace"):
            return self
        text = f"{comm:>16}-{pid:<7} [000] d..1. {self.stamp(ms)}: mark_victim: pid={pid} comm={comm} total-vm=9kB"
        return self.say(ms, e.TraceLine, source="trace", instance="A", text=text)

    def kernel(self, ms, text):
        if not self.on("kernel"):
            return self
        return self.say(
            ms, e.KernelLine, source="kernel", level=3, kseq=len(self.events), text=text
        )

    def oom_lines(self, ms, pid, *, limit=None, home=None, comm="hog", whole=False):
        home = home or self.home()
        where = "global_oom" if whole else f"oom_memcg={limit or home}"
        kind = "NONE" if whole else "MEMCG"
        head = "Out of memory" if whole else "Memory cgroup out of memory"
        self.kernel(
            ms,
            f"oom-kill:constraint=CONSTRAINT_{kind},nodemask=(null),cpuset=/,mems_allowed=0,{where},"
            f"task_memcg={home},task={comm},pid={pid},uid=0",
        )
        return self.kernel(
            ms + 0.1,
            f"{head}: Killed process {pid} ({comm}) total-vm:70000kB, anon-rss:60000kB, UID:0",
        )

    def oom(self, ms, pid, **how):
        """The kernel kills for memory: tracepoint, signal, log lines, counters, engine."""
        self.signal(ms, 9, pid, sender=pid, comm="hog", code=128)
        self.victim(ms, pid)
        self.oom_lines(ms + 0.5, pid, **how)
        if not how.get("whole") and not how.get("limit"):
            self.cgroup(
                ms + 4,
                {"memory.events": "oom 1\noom_kill 1", "memory.events.local": "oom 1\noom_kill 1"},
            )
        return self.docker(ms + 7, "oom")

    def cgroup(self, ms, files, container=C, scope="container"):
        if not self.on("cgroup"):
            return self
        return self.say(
            ms,
            e.CgroupSample,
            source="cgroup",
            container=container,
            scope=scope,
            path=self.home(container),
            files=files,
        )

    def exits(self, ms, pid, status, *, ppid=None):
        """A child ends, by the proc connector."""
        if not self.on("proc"):
            return self
        return self.say(
            ms + 0.5,
            e.ProcEvent,
            source="proc",
            what="exit",
            pid=pid,
            tgid=pid,
            ppid=self.main if ppid is None else ppid,
            status=status,
            exit_signal=17,
        )

    def ends(self, ms, status, *, pid=None, die=True, code=None, container=C, shim=SHIM):
        """The main process ends: every witness there is, the engine last."""
        pid = pid or self.main
        if self.on("trace"):
            self.say(
                ms,
                e.TraceLine,
                source="trace",
                instance="A",
                text=f"              sh-{pid:<7} [000] ..... {self.stamp(ms)}: sched_process_exit: comm=sh pid={pid} prio=120 group_dead=true",
            )
            self.say(ms, e.DeathSeen, source="death", container=container, pid=pid, by="trace")
        self.exits(ms + 0.3, pid, status, ppid=shim)
        if self.on("pidfd"):
            self.say(ms + 1.5, e.PidfdExit, source="pidfd", pid=pid, container=container)
        if code is None:
            code = 128 + (status & 0x7F) if status & 0x7F else status >> 8
        if die:
            self.daemon(ms + 33, "shim", shim, "gone", container=container)
            self.docker(ms + 41, "die", container=container, exitCode=code)
        return self

    def sender_engine(self, ms, sig, *, res=0, pid=None, sender=5100):
        """runc, made by a shim, sends a signal."""
        return self.signal(
            ms,
            sig,
            pid or self.main,
            sender=sender,
            comm="runc",
            res=res,
            place="engine",
            ancestors=[
                {"pid": SHIM, "name": "containerd-shim", "program": None, "container": None}
            ],
        )

    def gap(self, source, begin, end, why="overrun"):
        t = BASE + int(begin * 1e6)
        stop = None if end is None else BASE + int(end * 1e6)
        return self.say(
            end if end is not None else begin,
            e.Gap,
            source=source,
            name=source,
            begin=t,
            end=stop,
            why=why,
        )
