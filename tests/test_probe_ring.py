"""Pages of the tracer's ring buffer, taken apart: whatever the kernel's version wrote into them."""

import struct
import sys

import pytest

from harness.parse.trace import Executed, Forked, TaskExit, parse_trace

if sys.platform != "linux":
    pytest.skip("the probe runs on Linux", allow_module_level=True)

from harness.probe import ring

COMMON = """ID: {id}
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

"""
NEW = (
    COMMON.format(id=205)
    + """\tfield:pid_t pid;\toffset:8;\tsize:4;\tsigned:1;
\tfield:char comm[16];\toffset:12;\tsize:16;\tsigned:{chars};
\tfield:{word} clone_flags;\toffset:32;\tsize:8;\tsigned:0;
\tfield:short oom_score_adj;\toffset:40;\tsize:2;\tsigned:1;
"""
)
EXEC = (
    COMMON.format(id=365)
    + """\tfield:__data_loc char[] filename;\toffset:8;\tsize:4;\tsigned:{chars};
\tfield:pid_t pid;\toffset:12;\tsize:4;\tsigned:1;
\tfield:pid_t old_pid;\toffset:16;\tsize:4;\tsigned:1;
"""
)
EXIT = (
    COMMON.format(id=369)
    + """\tfield:char comm[16];\toffset:8;\tsize:16;\tsigned:{chars};
\tfield:pid_t pid;\toffset:24;\tsize:4;\tsigned:1;
\tfield:int prio;\toffset:28;\tsize:4;\tsigned:1;
"""
)
LAST = "\tfield:bool group_dead;\toffset:32;\tsize:1;\tsigned:0;\n"
KERNELS = {
    "5.4": {"chars": 1, "word": "unsigned long", "last": ""},
    "6.18": {"chars": 0, "word": "u64", "last": LAST},
}


@pytest.fixture(params=KERNELS)
def shapes(request):
    said = KERNELS[request.param]
    made = [
        ring.Shape(ring.NEW, NEW.format(**said)),
        ring.Shape(ring.EXEC, EXEC.format(**said)),
        ring.Shape(ring.EXIT, EXIT.format(**said) + said["last"]),
    ]
    return {shape.id: shape for shape in made}


def event(body, delta=0):
    """A record with its header, as the kernel packs it: a length in words, or one of its own."""
    body += b"\0" * (-len(body) % 4)
    words = len(body) // 4
    if words <= 28:
        return struct.pack("=I", words | delta << 5) + body
    return struct.pack("=II", delta << 5, len(body) + 4) + body


def born(child, comm=b"sh", flags=0x1200011, tid=7):
    return struct.pack("=HBBii16s4xQh", 205, 0, 0, tid, child, comm, flags, -998)


def became(pid, path, tid=None):
    place = 20 | (len(path) + 1) << 16
    return struct.pack("=HBBiIii", 365, 0, 0, tid or pid, place, pid, pid) + path + b"\0"


def gone(pid, comm=b"sh"):
    return struct.pack("=HBBi16siiB", 369, 0, 0, pid, comm, pid, 120, 1)


def page(*events, t=1_000_000_000, flags=0, behind=b""):
    body = b"".join(events)
    return (struct.pack("=QQ", t, len(body) | flags) + body + behind).ljust(4096, b"\0")


def read(data, shapes, cpu=1):
    into = []
    return into, ring.records(data, 16, cpu, shapes, into)


def test_a_page_gives_its_records_with_their_times(shapes):
    """Births, programs and ends, each at the page's time and all the steps since."""
    data = page(
        event(born(42)), event(became(42, b"/bin/true"), 500), event(gone(42, b"true"), 250)
    )
    found, (seen, lost) = read(data, shapes)
    assert [(r[0], r[1], r[2], r[3], r[4][0]) for r in found] == [
        (1_000_000_000, 1, 7, ring.NEW, 42),
        (1_000_000_500, 1, 42, ring.EXEC, 42),
        (1_000_000_750, 1, 42, ring.EXIT, 42),
    ]
    assert (seen, lost) == (1_000_000_750, 0)
    assert ring.text_of(found[1][4][1]) == "/bin/true"


def test_a_record_reads_as_the_tracer_would_have_printed_it(shapes):
    """Whoever reads lines finds the same facts in ours."""
    data = page(event(born(42)), event(became(42, b"/a b/x pid=1")), event(gone(42, b"x pid=9")))
    facts = [parse_trace(ring.line(record)) for record in read(data, shapes)[0]]
    last = True if shapes[369].pick((0,) * 6 + (None,))[-1] == 0 else None
    assert facts == [
        Forked(7, 42, "sh"),
        Executed(42, "/a b/x pid=1"),
        TaskExit(42, "x pid=9", last),
    ]


def test_long_steps_in_time_are_followed(shapes):
    """A quarter of a second does not fit into a record's step: the kernel puts a longer one before it."""
    extend = struct.pack("=II", ring.TIME_EXTEND | 3 << 5, 9)
    data = page(event(born(1)), extend, event(born(2), 10))
    first, second = read(data, shapes)[0]
    assert second[0] - first[0] == (9 << 27) + 3 + 10


def test_an_absolute_time_is_taken_as_it_is(shapes):
    """A record written from inside another one's writing carries its whole time."""
    t = 1 << 40
    stamp = struct.pack("=II", ring.TIME_STAMP | (t & 0x7FFFFFF) << 5, t >> 27)
    assert read(page(stamp, event(born(1), 7)), shapes)[0][0][0] == t + 7


def test_padding_and_other_events_are_stepped_over(shapes):
    """What was thrown away leaves a hole with a length; what nobody asked for has another number."""
    hole = struct.pack("=II", ring.PADDING | 1 << 5, 12) + b"\xff" * 8
    other = event(struct.pack("=HBBi", 999, 0, 0, 3) + b"\xff" * 300)
    end = struct.pack("=I", ring.PADDING) + b"\xff" * 60
    found, _ = read(page(hole, event(born(1)), other, event(born(2)), end), shapes)
    assert [record[4][0] for record in found] == [1, 2]


@pytest.mark.parametrize(
    ("flags", "behind", "lost"),
    [
        (0, b"", 0),
        (ring.MISSED, b"", 1),
        (ring.MISSED | ring.MISSED_STORED, struct.pack("=Q", 4711), 4711),
    ],
)
def test_what_was_overwritten_is_counted(shapes, flags, behind, lost):
    """A page says that records before it were lost, and how many where it had room for that."""
    found, (_, missed) = read(page(event(born(1)), flags=flags, behind=behind), shapes)
    assert (len(found), missed) == (1, lost)


@pytest.mark.parametrize(
    "name", [b"a b", b"-1 [000] 1.2:", b"\xff\xfe", b"x\ny", b"", b"0123456789abcde"]
)
def test_a_hostile_name_hides_nothing(shapes, name):
    """Names are bytes of a fixed length: nothing in them can look like the next record."""
    found, _ = read(page(event(born(1, name)), event(gone(2, name))), shapes)
    assert [record[4][0] for record in found] == [1, 2]
    assert isinstance(parse_trace(ring.line(found[0])), Forked)


def test_every_length_of_a_path_leaves_the_next_record_whole(shapes):
    """Short records carry their length in the header, long ones behind it."""
    for length in range(300):
        found, _ = read(page(event(became(5, b"/" * length)), event(born(6))), shapes)
        assert len(ring.text_of(found[0][4][1])) == length
        assert found[1][4][0] == 6


def test_a_kernel_that_describes_a_record_without_our_fields_is_refused():
    """Better no source than a number that means something else."""
    with pytest.raises(ValueError, match="clone_flags"):
        ring.Shape(ring.NEW, NEW.format(chars=0, word="u64").replace("clone_flags", "flags"))


class Pages:
    """A Ring over pages in memory: one list of pages a CPU."""

    def __init__(self, monkeypatch, shapes, *cpus, now):
        self.ring = ring.Ring.__new__(ring.Ring)
        self.ring.cpus = dict(enumerate(range(len(cpus))))
        self.ring.shapes, self.ring.head, self.ring.size = shapes, 16, 4096
        self.ring.lost, self.ring.young = 0, []
        self.cpus, self.now = cpus, now
        monkeypatch.setattr(ring, "boot", lambda: self.now)
        monkeypatch.setattr(ring.os, "read", self.read)

    def read(self, fd, size):
        if not self.cpus[fd]:
            raise BlockingIOError
        return self.cpus[fd].pop(0)


def test_records_of_several_cpus_come_in_the_order_of_their_time(monkeypatch, shapes):
    """A child that was born on one CPU and ended on another is born first."""
    first = [page(event(gone(42)), t=2000), page(event(born(43)), t=4000)]
    second = [page(event(born(42)), t=1000), page(event(gone(43)), t=5000)]
    made = Pages(monkeypatch, shapes, first, second, now=10_000)
    assert [r[0] for r in made.ring.take(10**9)] == [1000, 2000, 4000, 5000]


def test_a_record_younger_than_the_reading_waits_for_the_next(monkeypatch, shapes):
    """Its cause may stand on a CPU that was read before it happened."""
    made = Pages(monkeypatch, shapes, [], [page(event(gone(42)), t=11_000)], now=10_000)
    assert made.ring.take(10**9) == []
    made.cpus[0].append(page(event(born(42)), t=10_500))
    made.now = 20_000
    assert [r[3] for r in made.ring.take(10**9)] == [ring.NEW, ring.EXIT]


def test_a_flood_that_can_not_be_read_in_time_holds_back_what_may_come_after_it(
    monkeypatch, shapes
):
    """Out of time on one CPU: what is younger than its last record is kept for the next reading."""
    flood = [page(event(born(n)), t=1000 + n) for n in range(3)]
    made = Pages(monkeypatch, shapes, flood, [page(event(born(9)), t=5000)], now=10_000)
    first = made.ring.take(0)
    assert first == []
    once = iter([10_000, 10_000, 10_002])
    monkeypatch.setattr(ring, "boot", lambda: next(once))
    assert [r[0] for r in made.ring.take(1)] == [1000]
    monkeypatch.setattr(ring, "boot", lambda: 20_000)
    assert [r[0] for r in made.ring.take(10**9)] == [1001, 1002, 5000]
