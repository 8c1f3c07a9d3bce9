"""Holds one QEMU: `python -I -S vm_keeper.py ARGV…`, run by `vm`, imports nothing of ours.

Rule: QEMU lives exactly as long as somebody wants it to. The end of standard input
(the harness's end, whatever ended it) kills it; our own end kills it too (parent-death
signal). Says "pid N" when it runs; its exit code is ours (128 + n for a signal).
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main(argv: list[str]) -> int:
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _die_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        os.setsid()  # a Ctrl-C on the terminal is not meant for it
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(2, 1)
        try:
            os.execv(argv[0], argv)  # noqa: S606
        except OSError as error:
            os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        os._exit(127)
    os.write(1, f"pid {child}\n".encode())
    ended = os.pidfd_open(child)
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    poll.register(ended, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if ended in ready:
            break
        if 0 in ready and not os.read(0, 4096):
            os.kill(child, signal.SIGKILL)
            break
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
