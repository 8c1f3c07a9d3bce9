"""Births, programs and ends of all processes, as the tracer's own records.

Rule: what every fork of the machine passes through must cost next to nothing. The tracer
would print each record as a line for us to take apart again; its pages hold them as
numbers. What a record looks like is read from the tracer itself (`format`), never
assumed. Pages are one CPU's: records of several are put in the order of their time, and
one that is younger than the reading waits for the next.
"""

from __future__ import annotations

import os
import re
import struct
import sys
from operator import itemgetter
from typing import TYPE_CHECKING

from .linux import boot
from .tracefs import Instance

if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple

    Record = Tuple[int, int, int, str, Tuple[Any, ...]]
    """(boottime in ns, CPU, thread that ran, event, values in the order of FIELDS)"""

NEW, EXEC, EXIT = "task_newtask", "sched_process_exec", "sched_process_exit"
FIELDS = {
    NEW: ("pid", "comm", "clone_flags", "oom_score_adj"),
    EXEC: ("pid", "filename", "old_pid"),
    EXIT: ("pid", "comm", "prio", "group_dead"),
}
"""group_dead is None on kernels before 6.15: they do not say."""

_WORD, _KIND = struct.Struct("=I"), struct.Struct("=H")
_HEADS = {16: (struct.Struct("=QQ"), struct.Struct("=Q")), 12: (struct.Struct("=QI"), _WORD)}
"""By its length: the head of a page, and a number of the kernel's `long`."""
_ID = re.compile(r"^ID: (\d+)$", re.M)
_FIELD = re.compile(r"field:(.*?)([\w]+)(?:\[\w*\])?;\toffset:(\d+);\tsize:(\d+);\tsigned:([01]);")
_DATA = re.compile(r"field: char data;\toffset:(\d+);")
_SIZES = {1: "b", 2: "h", 4: "i", 8: "q"}
PADDING, TIME_EXTEND, TIME_STAMP = 29, 30, 31
MISSED, MISSED_STORED, LENGTH = 1 << 31, 1 << 30, (1 << 27) - 1
_LITTLE = sys.byteorder == "little"


class Shape:
    """How one kind of record is laid out, from the tracer's own description.

    Raises:
        ValueError: the description lacks a field that we need.
    """

    def __init__(self, event: str, text: str) -> None:
        self.event = event
        number = _ID.search(text)
        if number is None:
            raise ValueError("%s has no ID" % event)
        self.id = int(number.group(1))
        found = {m.group(2): m for m in _FIELD.finditer(text)}
        wanted = ["common_pid", *FIELDS[event]]
        missing = sorted(set(wanted) - set(found) - {"group_dead"})
        if missing:
            raise ValueError("%s has no field %s" % (event, ", ".join(missing)))
        code, at, names, elsewhere = "=", 0, [], set()
        for offset, name in sorted((int(found[n].group(3)), n) for n in wanted if n in found):
            declared, size = found[name].group(0).partition(";")[0], int(found[name].group(4))
            code += "x" * (offset - at)
            if "__data_loc" in declared:
                elsewhere.add(name)
                code += "I"
            elif "[" in declared:
                code += "%ds" % size
            else:
                letter = _SIZES[size]
                code += letter if found[name].group(5) == "1" else letter.upper()
            names.append(name)
            at = offset + size
        self.unpack = struct.Struct(code).unpack_from
        self.tid = names.index("common_pid")
        # A field that this kernel has not is None: it is added behind the others.
        self.pick = itemgetter(*(names.index(n) if n in names else -1 for n in FIELDS[event]))
        self.elsewhere = [place for place, n in enumerate(FIELDS[event]) if n in elsewhere]

    def read(self, page: bytes, at: int, t: int, cpu: int) -> Record:
        """The record whose fields begin at `at`."""
        got = self.unpack(page, at)
        values = self.pick((*got, None))
        if self.elsewhere:
            listed = list(values)
            for place in self.elsewhere:
                begin = at + (listed[place] & 0xFFFF)
                listed[place] = page[begin : begin + (listed[place] >> 16)]
            values = tuple(listed)
        return t, cpu, got[self.tid], self.event, values


def text_of(raw: bytes) -> str:
    """A name as the kernel keeps it: bytes up to the first zero, whatever its owner wrote."""
    return raw.partition(b"\0")[0].decode("utf-8", "replace")


def line(record: Record) -> str:
    """The record as the tracer prints it, for who reads lines (`parse.trace`)."""
    t, cpu, tid, event, values = record
    if event == NEW:
        name = text_of(values[1])
        rest = "pid=%d comm=%s clone_flags=%x oom_score_adj=%d" % (values[0], name, *values[2:])
    elif event == EXEC:
        name = program_name(values[1])
        rest = "filename=%s pid=%d old_pid=%d" % (text_of(values[1]), values[0], values[2])
    else:
        name = text_of(values[1])
        rest = "comm=%s pid=%d prio=%d" % (name, values[0], values[2])
        if values[3] is not None:
            rest += " group_dead=%s" % ("true" if values[3] else "false")
    stamp = "%d.%06d" % divmod(t // 1000, 1_000_000)
    return "%16s-%-7d [%03d] %12s: %s: %s" % (name, tid, cpu, stamp, event, rest)


def program_name(filename: bytes) -> str:
    """What a process is called after it became this program: the kernel cuts at 15 bytes."""
    return filename.partition(b"\0")[0].rpartition(b"/")[2][:15].decode("utf-8", "replace")


def records(
    page: bytes, head: int, cpu: int, shapes: Dict[int, Shape], into: List[Record]
) -> Tuple[int, int]:
    """One page's records, appended to `into`; (time of its last record or 0, lost before it).

    head: Bytes before the first record: a time stamp and a length, 8 bytes and a word of
    the kernel's.
    """
    begin, number = _HEADS[head]
    t, commit = begin.unpack_from(page, 0)
    at, end = head, head + (commit & LENGTH)
    lost = 0
    if commit & MISSED:
        stored = commit & MISSED_STORED and end + number.size <= len(page)
        lost = int(number.unpack_from(page, end)[0]) if stored else 1
    word, kind_of, seen = _WORD.unpack_from, _KIND.unpack_from, 0
    while at + 4 <= end:
        first = word(page, at)[0]
        kind, delta = (first & 31, first >> 5) if _LITTLE else (first >> 27, first & 0x7FFFFFF)
        if kind < PADDING:
            t += delta
            if kind:
                body, after = at + 4, at + 4 + kind * 4
            else:
                body, after = at + 8, at + 4 + word(page, at + 4)[0]
            shape = shapes.get(kind_of(page, body)[0])
            if shape is not None:
                into.append(shape.read(page, body, t, cpu))
            seen, at = t, after
        elif kind == TIME_EXTEND:
            t += (word(page, at + 4)[0] << 27) + delta
            at += 8
        elif kind == TIME_STAMP:
            # An absolute time has 59 bits; the rest is as it was.
            t = (t & (31 << 59)) | ((word(page, at + 4)[0] << 27) + delta)
            at += 8
        else:
            if delta == 0:
                break  # nothing more on this page
            at += 4 + word(page, at + 4)[0]
    return seen, lost


class Ring(Instance):
    """A tracing instance that is read page by page, a file for each CPU."""

    def __init__(self, root: str, name: str, kib: int) -> None:
        super().__init__(root, name, kib, lines=False)
        self.cpus: Dict[int, int] = {}
        self.shapes: Dict[int, Shape] = {}
        self.young: List[Record] = []
        self.size = max(4096, os.sysconf("SC_PAGE_SIZE"))
        try:
            with open(root + "/events/header_page") as file:
                match = _DATA.search(file.read())
            self.head = int(match.group(1)) if match else 16
            for cpu in os.listdir(self.path + "/per_cpu"):
                path = "%s/per_cpu/%s/trace_pipe_raw" % (self.path, cpu)
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                self.cpus[fd] = int(cpu[3:])
        except OSError:
            self.remove()
            raise

    def follow(self, event: str) -> bool:
        """Have a kind of record written; "system/name". False when this kernel has it not."""
        try:
            with open("%s/events/%s/format" % (self.path, event)) as file:
                shape = Shape(event.partition("/")[2], file.read())
        except (OSError, ValueError):
            return False
        self.shapes[shape.id] = shape
        return self.enable(event)

    def take(self, budget: int) -> List[Record]:
        """What there is until now, in the order of time, as much as `budget` ns allow."""
        begin = boot()
        end, limit = begin + budget, begin
        found, self.young = self.young, []
        waiting = dict.fromkeys(self.cpus, 0)
        while waiting and boot() < end:
            # A page from each in turn: a flood on one CPU keeps no other waiting.
            for fd in list(waiting):
                try:
                    page = os.read(fd, self.size)
                except BlockingIOError:
                    page = b""
                if len(page) <= self.head:
                    del waiting[fd]
                    continue
                seen, lost = records(page, self.head, self.cpus[fd], self.shapes, found)
                self.lost += lost
                waiting[fd] = seen or waiting[fd]
        for seen in waiting.values():
            limit = min(limit, seen or limit)  # what comes next on that CPU may be as old
        found.sort(key=itemgetter(0))
        if found and found[-1][0] > limit:
            self.young = [one for one in found if one[0] > limit]
            found = found[: len(found) - len(self.young)]
        return found

    def remove(self) -> None:
        for fd in self.cpus:
            os.close(fd)
        self.cpus = {}
        super().remove()
