"""The proc connector: raw wait statuses.

Rule: only what a status needs is let through (a socket filter in the kernel drops the
rest), and nobody is woken: it is read in batches, and at once when a death is being
told. It answers in the machine's initial namespaces only; elsewhere it is unsupported.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

from .linux import boot

if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Tuple

    from .clocks import Clocks
    from .loop import Loop
    from .out import Out

CN_IDX_PROC = 1
LISTEN, IGNORE = 1, 2
FORK, EXEC, COMM, COREDUMP, EXIT = 1, 2, 0x200, 0x40000000, 0x80000000
NETLINK_CONNECTOR = 11
SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
BUFFER = 8 << 20
_HEAD = struct.Struct("=IIQ")
_EXITED = struct.Struct("=IIII")
_PARENT = struct.Struct("=II")
DATA = 36  # after nlmsghdr (16) and cn_msg (20): struct proc_event


def _network(value: int) -> int:
    """BPF loads words in network order; the record has them in the machine's."""
    return int(struct.unpack(">I", struct.pack("=I", value))[0])


def _filter() -> Tuple[bytes, Any]:
    """exit and core dump of thread group leaders (pid == tgid), nothing else."""
    ld, jeq, jeq_x, tax, ret = 0x20, 0x15, 0x1D, 0x07, 0x06
    program = [
        (ld, 0, 0, DATA),
        (jeq, 1, 0, _network(EXIT)),
        (jeq, 0, 4, _network(COREDUMP)),
        (ld, 0, 0, DATA + 16),
        (tax, 0, 0, 0),
        (ld, 0, 0, DATA + 20),
        (jeq_x, 1, 0, 0),
        (ret, 0, 0, 0),
        (ret, 0, 0, 0xFFFFFFFF),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    return struct.pack("HL", len(program), ctypes.addressof(code)), code


class Connector:
    def __init__(
        self,
        loop: Loop,
        out: Out,
        clocks: Clocks,
        on_exit: Callable[[int, Optional[int], Dict[str, Any], int], None],
    ) -> None:
        """on_exit(pid, status, fields, t): every process's end; the caller chooses what to say."""
        self.loop, self.out, self.clocks, self.on_exit = loop, out, clocks, on_exit
        self.socket: Any = None
        self.read_until = boot()

    def start(self) -> None:
        try:
            self.socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, NETLINK_CONNECTOR
            )
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            except OSError:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            packed, code = _filter()
            self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, packed)
            del code
            self.socket.bind((0, CN_IDX_PROC))
            self._ask(LISTEN)
        except OSError as error:
            self.stop()
            self.out.source("proc", "unsupported", "proc connector: %s" % error.strerror)
            return
        self.out.source("proc", "active")

    def _ask(self, what: int) -> None:
        body = struct.pack("=IIIIHHI", CN_IDX_PROC, 1, 0, 0, 4, 0, what)
        self.socket.send(struct.pack("=IHHII", 16 + len(body), 3, 0, 0, os.getpid()) + body)

    def drain(self, budget: int = 10_000_000) -> None:
        """Read what there is, for at most `budget` ns."""
        if self.socket is None:
            return
        end = boot() + budget
        while boot() < end:
            try:
                data = self.socket.recv(4096)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.out.gap("proc", self.read_until, boot(), "the socket's buffer overran")
                continue
            self.record(data)
        self.read_until = boot()

    def record(self, data: bytes) -> None:
        if len(data) < DATA + 32:
            return
        what, _, stamp = _HEAD.unpack_from(data, DATA)
        if what not in (EXIT, COREDUMP):
            return
        pid, tgid, status, signal = _EXITED.unpack_from(data, DATA + 16)
        fields = {"what": "exit", "pid": pid, "tgid": tgid}
        if what == EXIT:
            fields["status"], fields["exit_signal"] = status, signal
            # Added in 4.20, with the two parents at the record's end.
            if len(data) >= DATA + 40:
                fields["ppid"] = _PARENT.unpack_from(data, DATA + 32)[1]
        else:
            fields["what"] = "coredump"
        self.on_exit(pid, status if what == EXIT else None, fields, self.clocks.mono_to_boot(stamp))

    def stop(self) -> None:
        if self.socket is not None:
            try:
                self._ask(IGNORE)
            except OSError:
                pass  # it never listened
            self.socket.close()
            self.socket = None
