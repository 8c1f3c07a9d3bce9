"""`doctor`: which machines are to be had here, what the probe will see, what spoils results."""

from __future__ import annotations

import json as jsonlib
import os
import platform
import sys
from pathlib import Path
from typing import Any

from harness import lease, process
from harness.errors import DeathbenchError, EnvironmentInvalid, ExitCode
from harness.events import SourceState
from harness.machine import choose, colima_call, colima_state, health, leftovers, pen
from harness.machine.health import Finding


def main(*, fix: bool = False, json: bool = False) -> int:
    """Exit code 0 when a machine is to be had, 3 when none is."""
    fixed = _fix() if fix else []
    machines = [_machine(kind) for kind in choose.KINDS]
    try:
        chosen = choose.resolve("auto")
        why = ""
    except EnvironmentInvalid as error:
        chosen, why = "", str(error)
    sources = _sources() if platform.system() == "Linux" else []
    colima = colima_state.report()
    found = [
        *health.findings(),
        *_engine_findings(),
        *colima.findings,
        *_matrix_findings(chosen),
        *_leftovers(),
    ]
    document = {
        "format": "deathbench.doctor/1",
        "auto": chosen or None,
        "machines": machines,
        "colima": colima.lines,
        "sources": sources,
        "findings": [f.document() for f in found],
        "fixed": fixed,
        "versions": _versions(),
    }
    if json:
        print(jsonlib.dumps(document))
    else:
        _show(document, why)
    return int(ExitCode.OK if chosen else ExitCode.ENVIRONMENT)


def _machine(kind: str) -> dict[str, Any]:
    why = choose.why_not(kind)
    return {"kind": kind, "available": not why, "why": why or None}


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {
        "kernel": platform.release(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
    for program in ("dockerd", "containerd", "runc", "docker", "colima", "limactl"):
        path = colima_call.which(program)
        if path is None:
            found[program] = None
            continue
        # limactl says nothing to root, not even its version.
        said = colima_call.call(
            (path, "--version"), home=None, user=colima_state.asker(), deadline=10
        )
        found[program] = said.text.strip().splitlines()[0] if said.ok and said.out else None
    return found


# --- what the probe will see ----------------------------------------------------------


def _sources() -> list[dict[str, Any]]:
    """A real probe is started beside us, asked what it sees, and sent home."""
    if os.geteuid() != 0:
        return [{"name": "probe", "state": "unsupported", "why": "not root here"}]
    from harness import LABEL
    from harness.machine import ProbeSite
    from harness.runner.link import ProbeLink

    seen: dict[str, SourceState] = {}

    def hear(event: object) -> None:
        if isinstance(event, SourceState):
            seen[event.name] = event

    site = ProbeSite(
        python=(sys.executable,),
        config={"cgroup": "/", "logs": {}, "journal": True, "pidfiles": {}, "roots": ["/"],
                "label": f"{LABEL}-doctor"},
    )  # fmt: skip
    link = ProbeLink(site, on_event=hear)
    try:
        link.start()
        link.flush(5)
    except EnvironmentInvalid as error:
        return [{"name": "probe", "state": "unsupported", "why": str(error)}]
    finally:
        link.stop()
    # No engine was named to it: what it says of the engine's events is about that.
    return [
        {"name": s.name, "state": s.state, "why": s.why or None}
        for s in seen.values()
        if s.name != "docker"
    ]


# --- what spoils results ---------------------------------------------------------------


def _engine_findings() -> list[Finding]:
    """Other people's containers on the engine of `host`."""
    if choose.why_not("host"):
        return []
    from harness import engine
    from harness.machine.contexts import endpoint

    there = endpoint()
    if not there.url.startswith("unix://"):
        return []
    client = engine.Engine(there.url, deadline=5)
    try:
        running = client.ps(everything=False).value or []
    finally:
        client.close()
    others = [
        c for c in running if not any(k.startswith("deathbench") for k in c.get("Labels") or {})
    ]
    if not others:
        return []
    return [
        Finding(
            f"{len(others)} other containers run on the engine at {there.url}",
            "they take memory and CPU from trials on machine kind `host`, and may die with them",
            "stop them, or use a machine of your own: kind: pen, kind: colima",
        )
    ]


def _matrix_findings(kind: str) -> list[Finding]:
    """Matrices of the current folder that ask for more than there is."""
    from harness import matrix, spec

    found = []
    for path in sorted(Path("matrix").glob("*.y*ml")):
        try:
            loaded = spec.load_matrix(path)
            specs = matrix.plan(loaded, 0)
        except DeathbenchError:
            continue  # `validate` says what is wrong with a file
        for machine in (s.machine for s in specs if s.machine.kind in ("auto", "pen")):
            if kind != "pen":
                break
            try:
                choose.check(machine, kind="pen")
            except EnvironmentInvalid as error:
                what = f"{path} can not run here"
                found.append(Finding(what, error.why or error.what, error.mend))
                break
    return found


def _leftovers() -> list[Finding]:
    left = leftovers.clean(dry=True, engines=False).removed
    if not left:
        return []
    return [
        Finding(
            f"{len(left)} leftovers of killed runs: {', '.join(left[:3])}"
            + (" …" if left[3:] else ""),
            "they hold memory, disk or a name",
            f"{process.called()} clean",
        )
    ]


# --- mending ------------------------------------------------------------------------------


def _fix() -> list[str]:
    """What can be mended without asking: our leftovers, and on Debian the missing packages."""
    done = [f"removed {line}" for line in leftovers.clean(engines=False).removed]
    packages = sorted(set(pen.missing().values()))
    apt = process.which("apt-get")
    if packages and apt and os.geteuid() == 0:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for argv in ((apt, "update"), (apt, "install", "-y", "--no-install-recommends", *packages)):
            said = process.run(argv, deadline=900, env=environment)
            if not said.ok:
                done.append(f"could not install {' '.join(packages)}: {said.why()}")
                return done
        done.append(f"installed {' '.join(packages)}")
    return done


def _show(document: dict[str, Any], why: str) -> None:
    for line in document["fixed"]:
        print(line)
    print("machines")
    for one in document["machines"]:
        print(f"  {one['kind']:8} {'yes' if one['available'] else 'no: ' + one['why']}")
    print(f"  auto     {document['auto'] or 'none'}")
    print("colima")
    for line in document["colima"]:
        print(f"  {line}")
    print("what the probe sees here")
    for one in document["sources"]:
        print(f"  {one['name']:10} {one['state']}" + (f": {one['why']}" if one["why"] else ""))
    print("versions")
    for name, version in document["versions"].items():
        print(f"  {name:10} {version or '-'}")
    if document["findings"]:
        print("findings")
    for one in document["findings"]:
        print(f"  {one['what']}\n    harm  {one['harm']}\n    try   {one['mend']}")
    if not document["findings"]:
        print(f"nothing that spoils results was found (state in {lease.places().run})")
    if why:
        print(why, file=sys.stderr)
