"""Attending somebody else's containers: it can be ended at any instant."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ENDED_ALL_THE_TIME = """
    import signal
    from types import SimpleNamespace
    from harness import events
    from harness.runner.attend import Attendance

    attendance = Attendance(None, SimpleNamespace(config={}), lambda row: False)
    signal.signal(signal.SIGALRM, lambda *_: attendance.stop())
    for n in range(2000):
        for m in range(50):
            attendance.hear(events.Note(t=m, seen=m, what="x", clock="harness", source="runner"))
        signal.setitimer(signal.ITIMER_REAL, 0.00002 + n % 40 / 1e6)
        for _ in attendance.ended():
            pass
    print("ended")
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer here")
def test_a_signal_may_end_it_while_it_takes_an_event():
    """The handler runs in the thread that may just hold the queue: neither waits for the other."""
    script = textwrap.dedent(ENDED_ALL_THE_TIME)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "ended\n", done.stderr
