"""The map of the house can not rot: rooms import upward only, and the core touches no world."""

import ast
from pathlib import Path

import pytest

HARNESS = Path(__file__).parent.parent / "harness"

CORE = [
    "errors", "units", "model", "spec", "matrix", "events", "parse", "history", "lifecycle",
    "schedule", "deaths", "attribution", "stats", "report",
]  # fmt: skip
EDGES = [
    "clock", "process", "engine", "images", "lease", "machine", "inject", "wrap", "probe",
    "store", "fakes", "runner", "scale", "verbs",
]  # fmt: skip
ROOMS = CORE + EDGES

# What the core must not touch: no clock, no subprocess, no randomness, no sockets.
WORLD = {"time", "subprocess", "random", "secrets", "socket", "threading", "signal", "docker"}


def room_of(path):
    """The room a file belongs to."""
    parts = path.relative_to(HARNESS).parts
    return parts[0].removesuffix(".py")


def imports(path):
    """(line, module) of every import of a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "harness":
                for name in node.names:
                    yield node.lineno, f"harness.{name.name}"
            else:
                yield node.lineno, node.module


FILES = sorted(p for p in HARNESS.rglob("*.py") if p != HARNESS / "__init__.py")


def test_every_room_on_disk_is_on_the_map_and_in_its_place():
    """A new room is a decision: it gets its place in the order before its first file."""
    found = {room_of(p) for p in FILES}
    assert found <= set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HARNESS)))
def test_a_room_imports_only_what_stands_above_it(path):
    """One direction: whoever changes a room knows who can not notice."""
    room = room_of(path)
    wrong = []
    for line, module in imports(path):
        if not module.startswith("harness."):
            continue
        other = module.split(".")[1]
        if other in {"LABEL", "__version__"}:
            continue
        if other != room and ROOMS.index(other) > ROOMS.index(room):
            wrong.append(f"{path.name}:{line} imports {module}")
    assert wrong == []


@pytest.mark.parametrize(
    "path", [p for p in FILES if room_of(p) in CORE], ids=lambda p: str(p.relative_to(HARNESS))
)
def test_the_core_touches_no_world(path):
    """Values in, values out: what it says today it says again tomorrow."""
    touched = {module.split(".")[0] for _, module in imports(path)}
    assert set() == touched & WORLD


def test_the_probe_imports_nothing_but_the_standard_library():
    """It runs where nothing may be installed; and nothing of ours, not even a sibling room."""
    import sys

    for path in (HARNESS / "probe").rglob("*.py"):
        for line, module in imports(path):
            top = module.split(".")[0]
            own = module.startswith("harness.probe") or (HARNESS / "probe" / f"{top}.py").exists()
            assert own or top in sys.stdlib_module_names, f"{path.name}:{line} imports {module}"


def test_no_file_outgrows_the_house():
    """Past 600 lines even good files stop being read."""
    big = {
        str(p.relative_to(HARNESS)): n
        for p in FILES
        if (n := len(p.read_text().splitlines())) > 600
    }
    assert {} == big
