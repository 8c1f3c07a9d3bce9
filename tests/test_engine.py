"""Answers of an engine: values and failures, streams cut anywhere, deadlines kept."""

from __future__ import annotations

import http.client
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import engine
from harness.engine import Trouble
from harness.engine.aimed import KEPT, Kept
from harness.engine.answers import Answer, ask, failure_of
from harness.engine.command import failure_in
from harness.engine.execs import Frames
from harness.errors import EnvironmentInvalid


def wire(pieces):
    return b"".join(
        bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data for stream, data in pieces
    )


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=30)), max_size=8),
    st.lists(st.integers(1, 20), max_size=30),
)
def test_frames_do_not_depend_on_how_they_were_cut(pieces, cuts):
    """Whole, byte by byte or in any pieces: each stream gets the same bytes in order."""
    text = wire(pieces)
    frames, found = Frames(), {1: b"", 2: b""}
    at = 0
    for size in [*cuts, len(text)]:
        for stream, data in frames.feed(text[at : at + size]):
            found[stream] += data
        at += size
    assert found == {n: b"".join(d for s, d in pieces if s == n) for n in (1, 2)}


@given(st.lists(st.binary(max_size=40000), max_size=12))
def test_kept_output_has_its_head_and_its_tail(chunks):
    """However much is said, the first and the last bytes are there and the rest is counted."""
    kept, whole = Kept(), b"".join(chunks)
    for chunk in chunks:
        kept.add(chunk)
    found = kept.bytes()
    assert found.startswith(whole[:KEPT])
    assert whole.endswith(
        found[-min(KEPT, len(whole)) :] if b"left out" not in found else found[-100:]
    )
    assert len(found) <= 2 * KEPT + 40000 + 100
    if len(whole) <= KEPT:
        assert found == whole


class Response:
    status_code = 409
    reason = "Conflict"
    url = "http+docker://localhost/v1.41/containers/x/exec"


def refused():
    import docker.errors

    return docker.errors.APIError("409 Client Error", Response(), "Container abc is not running")


def raised(outer, cause):
    try:
        try:
            raise cause
        except type(cause) as inner:
            raise outer from inner
    except type(outer) as error:
        return error


def cases():
    import requests.exceptions as r
    import urllib3.exceptions as u

    return [
        pytest.param(refused(), Trouble.REFUSED, "Container abc is not running", 409, id="api-error"),
        pytest.param(
            r.ConnectionError(u.ProtocolError("Connection aborted.", FileNotFoundError(2, "No such file or directory"))),
            Trouble.ABSENT, "No such file or directory", None, id="socket-unlinked",
        ),
        pytest.param(
            r.ConnectionError(u.ProtocolError("Connection aborted.", ConnectionRefusedError(111, "Connection refused"))),
            Trouble.ABSENT, "Connection refused", None, id="nobody-listens",
        ),
        pytest.param(
            r.ConnectionError(u.ProtocolError("Connection aborted.", ConnectionResetError(104, "Connection reset by peer"))),
            Trouble.ABSENT, "Connection reset by peer", None, id="killed-in-flight",
        ),
        pytest.param(
            r.ConnectionError(u.ProtocolError("x", http.client.RemoteDisconnected("closed without response"))),
            Trouble.ABSENT, "closed without response", None, id="closed-in-flight",
        ),
        pytest.param(r.ReadTimeout("read timed out"), Trouble.LATE, "read timed out", None, id="timeout"),
        pytest.param(ValueError("odd"), Trouble.OTHER, "ValueError: odd", None, id="ours"),
    ]  # fmt: skip


@pytest.mark.parametrize(("error", "trouble", "text", "status"), cases())
def test_errors_are_told_apart(error, trouble, text, status):
    """Refused by the engine, no engine, late or our own: by kind, the words kept as they came."""
    failure = failure_of(error)
    assert (failure.trouble, failure.http) == (trouble, status)
    assert text in failure.text


def test_a_late_answer_is_dropped():
    """At its deadline a call is over; what comes later changes nothing."""
    release = threading.Event()
    answer = ask(lambda: release.wait(5), deadline=0.02)
    release.set()
    assert answer.failure.trouble is Trouble.LATE
    assert answer.value is None
    assert 0.02 <= answer.seconds < 1


def test_need_turns_a_failure_into_words():
    """What could not be done and the engine's own words, in one error."""
    lost = ask(lambda: (_ for _ in ()).throw(refused()), deadline=5)
    with pytest.raises(EnvironmentInvalid, match="making it: 409 Container abc is not running"):
        lost.need("making it")
    assert Answer(7, None, 0, 1).need("x") == 7


def test_nobody_at_the_socket(tmp_path):
    """Connecting to no engine names the address, the reason and the way out."""
    with pytest.raises(EnvironmentInvalid) as error:
        engine.connect(f"unix://{tmp_path}/none.sock", deadline=5)
    assert "none.sock" in error.value.what
    assert "No such file" in error.value.why


# --- the docker program ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "out", "err", "trouble"),
    [
        (1, b"", b"Error response from daemon: Container 5f is paused, unpause it", "refused"),
        (1, b"", b"Error response from daemon: No such container: web\n", "refused"),
        (1, b"", b"Cannot connect to the Docker daemon at unix:///x. Is it running?", "absent"),
        (1, b"", b"error during connect: Post http://d/exec: EOF", "absent"),
        (-9, b"", b"", "other"),
        (1, b"out", b"Error response from daemon: no", None),
        (1, b"", b"grep: x: No such file or directory", None),
        (126, b"OCI runtime exec failed: exec failed: unknown", b"", None),
        (0, b"", b"Error response from daemon: no", None),
        (1, b"", b"", None),
    ],
)
def test_the_docker_programs_own_words_are_told_from_the_execs(code, out, err, trouble):
    """Only a status 1 with nothing but its own words is the program's."""
    found = failure_in(code, out, err)
    assert (found and found.trouble.value) == trouble
