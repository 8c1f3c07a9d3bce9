"""The console: every way to hold it wrong ends in one message, one document, one exit code."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import BadInput, EnvironmentInvalid, Problem
from harness.verbs import console, namespace

ROOT = Path(__file__).parent.parent


def program(*words):
    """Exit code of the program called in this process."""
    made = console.Console(name="deathbench", binary="deathbench", namespace=namespace())
    with pytest.raises(SystemExit) as end:
        made.run(["deathbench", *words])
    return int(end.value.code or 0)


SLIPS = [
    (["swep"], "there is no such verb", "did you mean sweep?"),
    (["help"], "there is no such verb", "--list"),
    (["sweep", "--sed", "3"], "sweep has no such option", "did you mean --seed?"),
    (["sweep", "x.yaml", "--jobs", "two"], "not a whole number", "--jobs 1"),
    (["sweep", "x.yaml", "--jobs=two"], "not a whole number", "--jobs 1"),
    (["sweep", "x.yaml", "--jobs"], "needs a value", "--jobs VALUE"),
    (["sweep", "x.yaml", "extra"], "takes no more words", "--list"),
    (["--nosuch"], "no such option", "--list"),
    (["--help", "nosuch"], "there is no such verb", "--list"),
]


@pytest.mark.parametrize(("words", "why", "fix"), SLIPS, ids=lambda x: " ".join(x)[:30])
def test_a_slip_on_the_command_line_says_what_why_and_the_nearest_word(capsys, words, why, fix):
    """In the form of every other error, exit 1, nothing on stdout."""
    assert program(*words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "1 problem in the command line" in err
    assert f"why: {why}" in err.replace("it needs", "needs").replace("sweep takes", "takes")
    assert fix in err


def test_lines_to_copy_begin_as_the_user_called_it(capsys, monkeypatch):
    """From another folder, through a path with a blank: the line works when it is pasted."""
    monkeypatch.setenv("DEATHBENCH_CALLED", "../death bench/inv")
    program("swep")
    assert "'../death bench/inv' --list" in capsys.readouterr().err


@pytest.mark.parametrize("words", [s[0] for s in SLIPS], ids=lambda x: " ".join(x)[:30])
def test_the_same_slip_with_json_is_one_document(capsys, words):
    """Of the verb's own shape, so that a reader of `cells` finds `cells`; stderr is silent."""
    assert program(*words, "--json") in {0, 1}
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert err == "" and document["exit"] == 1
    assert set(document["error"]) >= {"what", "where", "why", "mend"}
    if words[0] == "sweep":
        assert document["format"] == "deathbench.table/1" and document["cells"] == []


@pytest.mark.parametrize("verb", ["sweep", "run", "judge", "table", "show", "validate", "compare"])
def test_what_is_not_there_has_the_verbs_shape(capsys, monkeypatch, tmp_path, verb):
    """A file or campaign that does not exist: exit 1 and a document, from any verb."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEATHBENCH_ROOT", str(tmp_path))
    assert program(verb, "not/there", "--json") == 1
    document = json.loads(capsys.readouterr().out)
    noun = {"show": "trial", "validate": "validate", "compare": "compare"}.get(verb, "table")
    assert document["format"] == f"deathbench.{noun}/1"
    assert document["exit"] == 1


def test_every_verb_has_help(capsys):
    """Names, options and their words: `--help` of each is there and lists its options."""
    for verb in namespace().task_names:
        assert program("--help", verb) == 0
    assert capsys.readouterr().out.count("Usage: deathbench") == len(namespace().task_names)


# --- what goes wrong inside a verb ------------------------------------------------------


def failing(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "what"),
    [
        (BadInput([Problem("f:1", "x", "y", "z")]), 1, "x"),
        (EnvironmentInvalid("no machine", why="w", mend="m"), 3, "no machine"),
        (OSError(errno.ENOSPC, "No space left on device", "/r/x"), 3, "No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "/r"), 3, "Read-only file system"),
        (KeyboardInterrupt("SIGTERM"), 130, "interrupted"),
        (ZeroDivisionError("ours"), 1, "ZeroDivisionError: ours"),
    ],
)
def test_each_kind_of_failure_has_its_code_in_words_and_as_json(capsys, error, code, what):
    """Yours 1, the machine's 3, interrupted 130; a bug of ours keeps its traceback on stderr."""
    assert console.answer("sweep", failing(error), json=False) == code
    out, err = capsys.readouterr()
    assert out == "" and what in err
    assert console.answer("sweep", failing(error), json=True) == code
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["exit"], document["format"]) == (code, "deathbench.table/1")
    assert what in document["error"]["what"]
    assert ("Traceback" in err) == isinstance(error, ZeroDivisionError)


def test_a_full_disk_names_the_file_and_the_way_out(capsys):
    """Where and what to do, not only errno's words."""
    console.answer("sweep", failing(OSError(errno.ENOSPC, "No space left", "/r/x")), json=False)
    err = capsys.readouterr().err
    assert "/r/x" in err and "make room" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_kill_and_a_closed_terminal_run_every_finally(number):
    """They are heard like Ctrl-C: 130, and what was begun is taken back."""
    cleaned = []

    def main():
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            cleaned.append(number)

    before = signal.getsignal(number)
    assert console.answer("judge", main, json=False) == 130
    assert cleaned == [number]
    assert signal.getsignal(number) == before


# --- streams, in processes of their own ----------------------------------------------------

SAY = """
import sys
from harness.verbs import console
console.streams(json="--json" in sys.argv)
def main():
    print("narration \\u2192 caf\\u00e9 \\udcff", file=sys.stderr)
    print("result \\u2192 caf\\u00e9 \\udcff", flush=True)
    open("opened-by-us", "w").write("x")
    print("more " * 40000)
    return 0
sys.exit(console.answer("table", main, json="--json" in sys.argv))
"""


def say(tmp_path, redirect, *words, **env):
    return subprocess.run(
        ["sh", "-c", f'"$0" -c "$SAY" "$@" {redirect}', sys.executable, *words],
        env={**os.environ, "SAY": SAY, "PYTHONPATH": str(ROOT), **env},
        cwd=tmp_path,
        capture_output=True,
        timeout=20,
    )


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&- >&- 2>&-", "| head -n 1"])
def test_readers_that_leave_and_closed_streams_are_no_errors(tmp_path, redirect):
    """No traceback, nothing written into a file that happened to get a closed stream's number."""
    ran = say(tmp_path, redirect)
    assert ran.returncode == 0
    assert b"Traceback" not in ran.stderr and b"Exception ignored" not in ran.stderr
    assert (tmp_path / "opened-by-us").read_text() == "x"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_result_that_can_not_be_written_is_an_error(tmp_path, words):
    """The disk under stdout is full: exit 3 and one message, for people and for programs."""
    ran = say(tmp_path, ">/dev/full", *words)
    assert ran.returncode == 3
    assert b"No space left on device" in ran.stderr and b"ignored" not in ran.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_terminal_shows_what_it_can_and_json_is_utf8(tmp_path, encoding):
    """What an encoding does not have is replaced, and never ends a sweep."""
    plain = say(tmp_path, "", PYTHONIOENCODING=encoding)
    assert plain.returncode == 0 and b"result" in plain.stdout and b"narration" in plain.stderr
    document = say(tmp_path, "", "--json", PYTHONIOENCODING=encoding)
    assert "result → café" in document.stdout.decode()
