"""Commands end at their deadline, with everything they started, and their result is a value."""

from __future__ import annotations

import sys

from harness import clock, process


def test_a_result_has_what_came_back():
    """Both streams, the exit code, the input that was fed."""
    said = process.run(("sh", "-c", "cat; echo err >&2; exit 3"), stdin=b"in", deadline=10)
    assert (said.code, said.out, said.err, said.timed_out) == (3, b"in", b"err\n", False)
    assert not said.ok and "exit code 3; err" in said.why()


def test_a_command_that_is_not_there_is_a_result_too():
    """127 and the reason, as a shell has it; nothing is raised."""
    said = process.run(("/no/such/program",), deadline=1)
    assert said.code == process.NOT_FOUND and b"No such file" in said.err


def test_the_deadline_ends_the_whole_session():
    """A child of the command does not live on, nor hold the answer up."""
    begin = clock.now()
    said = process.run(("sh", "-c", "echo begun; sleep 60 & sleep 60"), deadline=0.05)
    assert said.timed_out and not said.ok and said.out == b"begun\n"
    assert clock.seconds_since(begin) < 2


def test_a_signal_is_told_as_one():
    """A negative code is the signal's number."""
    said = process.run(("sh", "-c", "kill -9 $$"), deadline=5)
    assert said.code == -9 and "signal 9" in said.why()


def test_a_child_ends_with_its_owner():
    """Leaving the block is the end of its input, and of it."""
    with process.spawn((sys.executable, "-S", "-c", "import sys; sys.stdin.read()")) as child:
        assert child.alive
    assert child.code == 0


def test_a_precise_instant_is_not_missed_by_much():
    """sleep_until never comes early."""
    at = clock.now() + 3_000_000
    assert clock.sleep_until(at) >= at


def test_wait_until_asks_at_least_once():
    """A predicate that holds is believed even at a deadline of zero; one that does not ends in False."""
    assert clock.wait_until(lambda: True, deadline=0)
    assert not clock.wait_until(lambda: False, deadline=0)
