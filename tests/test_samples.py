"""Recorded lines and what is read from them: a file per program and version, negatives beside.

`=> …` below a line is the fact. `pytest tests/test_samples.py --update` writes them anew, so
that a change of a parser is a diff to read.
"""

import json
from pathlib import Path

import pytest

from harness.parse import cgroup
from harness.parse.daemon import parse_daemon
from harness.parse.docker import parse_docker_event
from harness.parse.kernel import parse_kernel
from harness.parse.strace import parse_strace
from harness.parse.trace import parse_trace

SAMPLES = Path(__file__).parent / "samples"
NUMBERS = ("usage_in_bytes", "failcnt", ".current", ".peak", "cpuacct.usage", "max_usage_in_bytes")
LIMITS = ("limit_in_bytes", ".max", ".high", ".low")


def parse_file(line):
    """A control group's file as a sample has it: its name, a blank, its text as JSON. What the
    reader for a file of that name makes of it."""
    name, _, quoted = line.partition(" ")
    try:
        text = json.loads(quoted)
    except ValueError:
        return None
    if name.endswith("pressure"):
        return cgroup.parse_pressure(text) or None
    if name.endswith(NUMBERS):
        return cgroup.parse_number(text)
    if name.endswith(LIMITS):
        limit = cgroup.parse_limit(text)
        return "no limit" if cgroup.is_unlimited(text) else limit
    return cgroup.parse_counters(text) or None


PARSERS = {
    "kernel": parse_kernel, "trace": parse_trace, "daemon": parse_daemon, "strace": parse_strace,
    "cgroup": parse_file, "docker": parse_docker_event,
}  # fmt: skip
MARK = "    => "
FILES = sorted(p for p in SAMPLES.rglob("*.txt") if p.parent.name in PARSERS)


def lines(path):
    """Lines of the program, without remarks and expectations. A `#` is a remark only on line 1."""
    first, *rest = path.read_text().splitlines()
    assert first.startswith("# ")
    return [line for line in rest if not line.startswith(MARK)]


def written(path):
    """The file as it should be: each line, and its fact below."""
    parse = PARSERS[path.parent.name]
    said = [path.read_text().splitlines()[0]]
    for line in lines(path):
        said.append(line)
        fact = parse(line)
        if fact is not None:
            said.append(f"{MARK}{fact!r}")
    return "\n".join(said) + "\n"


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_each_line_is_read_as_it_was(path, request):
    """Facts as in the file; a line without one is none."""
    if request.config.getoption("--update"):
        path.write_text(written(path))
    assert path.read_text() == written(path)


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_line_that_comes_in_pieces_is_never_read_as_something_else(path):
    """Cut anywhere, or with a tail, it is a fact of the same kind, or none; never an error."""
    parse = PARSERS[path.parent.name]
    for line in lines(path):
        whole = parse(line)
        kinds = {type(parse(line[:end])) for end in range(len(line))}
        assert kinds <= {type(whole), type(None)}, line
        assert type(parse(f"{line} and more")) in {type(whole), type(None)}
        assert parse(f"{line}\n") == whole


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.parent.name == "cgroup"], ids=lambda p: p.stem
)
def test_a_file_that_is_read_in_pieces_keeps_its_whole_lines(path):
    """Cut at any byte, or with a tail: every whole line counts what it counted, no key is made up."""
    for line in lines(path):
        name, _, quoted = line.partition(" ")
        whole = parse_file(line)
        if not isinstance(whole, dict):
            continue
        text = json.loads(quoted)
        for end in range(len(text)):
            kept = text[: text.rfind("\n", 0, end) + 1]
            found = parse_file(f"{name} {json.dumps(text[:end])}") or {}
            assert set(found) <= set(whole)
            assert (parse_file(f"{name} {json.dumps(kept)}") or {}).items() <= found.items()
        assert parse_file(f"{name} {json.dumps(text + 'oom_kill 1 more')}") == whole


@pytest.mark.parametrize("name", PARSERS)
def test_every_parser_has_facts_and_negatives(name):
    """And its negatives hold none."""
    files = [p for p in FILES if p.parent.name == name]
    assert any(MARK in p.read_text() for p in files)
    (none,) = [p for p in files if p.stem == "negatives"]
    assert [line for line in lines(none) if PARSERS[name](line) is not None] == []
