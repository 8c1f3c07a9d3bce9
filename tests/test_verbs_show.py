"""show: one trial in words."""

from harness import events as e
from harness.verbs import show

LONG = "71f8f3b6968a87bee3a64f93e274117f117b1ba6e1b8569fcf2c449369122c37"

RECORD = {
    "trial": "memory=16MiB/1",
    "config": {"container.memory": 16 << 20},
    "delay": {"asked": 0.25, "happened": 0.250011934},
    "exec": {
        "before": "exited", "after": "exited", "exit_code": None, "seconds": 0.066967632,
        "error": f"Container {LONG} is not running", "output": None,
    },
}  # fmt: skip


def lines(record, judged=None):
    return show.words(record, judged or {"outcome": "survived"}, [])


def test_a_refused_exec_says_what_docker_said_and_when():
    """Settings in their units, times to three digits, container ids as docker cuts them."""
    shown = "\n".join(lines(RECORD, {"outcome": "died"}))
    assert "container.memory=16MiB" in shown
    assert "asked 250ms, happened 250ms" in shown
    assert "refused after 67ms: Container 71f8f3b6968a is not running" in shown
    assert "exited before and exited after" in shown


def test_an_exec_that_ran_shows_its_code_and_last_line():
    """The last line of its output, not a list of lines."""
    ran = {**RECORD["exec"], "error": None, "exit_code": 3, "output": "one\ntwo\x1b[0m\n"}
    shown = "\n".join(lines({**RECORD, "exec": ran}))
    assert "exit code 3 after 67ms, its last line: two [0m;" in shown


def test_a_trial_that_never_came_to_its_exec_is_shown():
    """Nothing known is said as such; no key of a record is taken for granted."""
    assert lines({"trial": "a/1"}) == [
        "a/1: survived",
        "  config   as written",
        "  delay    asked ?, happened ?",
    ]


def test_a_post_mortem_is_told_by_its_files():
    """A hundred files are not printed: their names are, and no more than a line of them."""
    event = e.PostMortem(
        t=1, seen=1, source="postmortem", n=1, container=LONG, files={"/b": "x", "/a": "y"}
    )
    assert show.brief(event) == "read at the death: /a, /b"
