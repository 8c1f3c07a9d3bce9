"""The clock that jumps, and programs in memory: what every other fast test stands on."""

import time

import pytest

from harness import fakes
from harness.clock import NS
from harness.fakes import clock as fake_clock
from harness.fakes import programs

HOUR = 3600.0


def test_an_hour_passes_at_once_when_everybody_waits():
    """And the instant is exact."""
    real = time.monotonic()
    with fakes.Clock() as clock:
        begin = clock.now()
        clock.sleep(HOUR)
        assert clock.now() - begin == int(HOUR * NS)
        assert clock.wall() - clock.now() == fake_clock._WALL
    assert time.monotonic() - real < 5


def test_threads_wake_in_the_order_of_their_instants():
    """Whoever was begun first goes first where two meet."""
    told = []
    with fakes.Clock() as clock:

        def body(name, seconds):
            return lambda: (clock.sleep(seconds), told.append(name))

        for name, seconds in (("late", 3), ("early", 1), ("also early", 1)):
            clock.thread(name, body(name, seconds))
        clock.at(clock.now() + 2 * NS, lambda: told.append("call"))
        clock.sleep(4)
    assert told == ["early", "also early", "call", "late"]


def test_one_thread_runs_at_a_time():
    """Nobody is interrupted between two waits, however long that takes."""
    inside, most = [], []
    with fakes.Clock() as clock:

        def body():
            for _ in range(20):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0002)
                inside.pop()
                clock.sleep(0.001)

        for n in range(4):
            clock.thread(f"t{n}", body)
        clock.sleep(1)
    assert set(most) == {1}
    assert len(most) == 80


def test_an_inbox_gives_what_comes_or_nothing_at_the_instant():
    """In order; None exactly when the time is up."""
    with fakes.Clock() as clock:
        inbox = clock.inbox()
        clock.after(1, lambda: inbox.put("a"))
        clock.after(2, lambda: inbox.put("b"))
        begin = clock.now()
        assert inbox.get(begin + 5 * NS) == "a"
        assert clock.now() - begin == NS
        assert inbox.get(None) == "b"
        assert inbox.get(clock.now() + 3 * NS) is None
        assert clock.now() - begin == 5 * NS


def test_when_nothing_will_ever_happen_the_owner_is_told():
    """A test that waits for ever fails at once, with the names of those who wait."""
    with fakes.Clock() as clock:
        clock.thread("forgotten", lambda: clock.inbox().get(None))
        with pytest.raises(fakes.clock.Stuck, match="forgotten"):
            clock.inbox().get(None)


def test_what_a_thread_raised_is_raised_when_the_clock_is_closed():
    """A bug in a worker is not lost with its thread."""

    def broken():
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"), fakes.Clock() as clock:
        clock.thread("worker", broken)
        clock.sleep(1)


def test_threads_that_still_wait_leave_with_the_clock():
    """A hung exec of a test is not there in the next one."""
    import threading

    with fakes.Clock() as clock:
        for n in range(5):
            clock.thread(f"left-behind-{n}", lambda: clock.sleep(HOUR))
        clock.sleep(1)
    deadline = time.monotonic() + 5
    while any(t.name.startswith("left-behind") for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("argv", "status", "seconds", "said"),
    [
        (("true",), 0, 0.0, ""),
        (("false",), 1, 0.0, ""),
        (("no-such-program",), 127, 0.0, ""),
        (("sleep", "2"), 0, 2.0, ""),
        (("sh", "-c", "exit 3"), 3, 0.0, ""),
        (("sh", "-c", "false; exit"), 1, 0.0, ""),
        (("sh", "-c", "echo a; sleep 0.5 && echo b"), 0, 0.5, "a\nb\n"),
        (("sh", "-c", "kill -TERM $$; exit 4"), 4, 0.0, ""),
    ],
)
def test_a_program_does_what_busybox_would(argv, status, seconds, said):
    """Status, time and words; PID 1 does not hear a signal it has no handler for."""
    with fakes.Clock() as clock:
        machine = fakes.Machine(clock)
        words, over = [], []
        machine.kernel.begin(
            programs.read(argv), container="c" * 64, over=over.append, say=words.append
        )
        begin = clock.now()
        clock.wait(lambda: bool(over), begin + 10 * NS)
        assert (over[0].status >> 8, "".join(words)) == (status, said)
        assert (over[0].ended - begin) / NS == pytest.approx(seconds)


def test_an_exec_of_a_program_that_is_killed_has_the_signal():
    """A process that is not PID 1 dies of what it does not handle."""
    with fakes.Clock() as clock:
        machine = fakes.Machine(clock)
        over = []
        main = machine.kernel.begin(
            programs.read(("sleep", "inf")), container="c" * 64, over=over.append, say=print
        )
        child = machine.kernel.begin(
            programs.read(("sleep", "inf")), container="c" * 64, over=over.append, say=print,
            first=main,
        )  # fmt: skip
        clock.sleep(1)
        machine.kernel.signal(main, 15)
        machine.kernel.signal(child, 15)
        assert (main.status, child.status) == (None, 15)
        machine.kernel.signal(main, 9)
        assert main.status == 9
