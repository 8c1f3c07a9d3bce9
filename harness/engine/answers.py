"""What an engine's answer is, and how an exception of the SDK becomes one.

Rule: the engine's words are kept as they came. Whether the *engine* refused or was
*not there* is decided here and nowhere else, by the kind of error, never by its text.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, TypeVar

from harness import clock
from harness.errors import EnvironmentInvalid

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Trouble(StrEnum):
    """Why there is no value."""

    REFUSED = "refused"
    """The engine answered, with an error: HTTP status and text are its own."""
    ABSENT = "absent"
    """No engine: nobody listens, or the connection broke before an answer."""
    LATE = "late"
    """No answer before the deadline."""
    OTHER = "other"
    """The request could not be made, or the answer could not be read."""


@dataclass(frozen=True, slots=True)
class Failure:
    """No value, and why. http only where the engine itself answered."""

    trouble: Trouble
    text: str
    http: int | None = None

    def __str__(self) -> str:
        return f"{self.http} {self.text}" if self.http else self.text


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A value or a failure, and when it was asked and answered (ns of `clock.now`)."""

    value: T | None
    failure: Failure | None
    asked: int
    answered: int

    @property
    def ok(self) -> bool:
        return self.failure is None

    @property
    def seconds(self) -> float:
        return (self.answered - self.asked) / clock.NS

    @property
    def http(self) -> int | None:
        return self.failure.http if self.failure else None

    @property
    def error(self) -> str | None:
        return self.failure.text if self.failure else None

    @property
    def absent(self) -> bool:
        """The engine is not there (any more)."""
        return self.failure is not None and self.failure.trouble is Trouble.ABSENT

    def need(self, what: str) -> T:
        """The value, or EnvironmentInvalid that says what could not be done and why."""
        if self.failure is not None:
            raise EnvironmentInvalid(f"{what}: {self.failure}")
        return self.value  # type: ignore[return-value]


def failure_of(error: BaseException) -> Failure:
    """Translate what the SDK, requests or a socket raised."""
    import docker.errors
    import requests.exceptions

    if isinstance(error, docker.errors.APIError):
        text = error.explanation
        if isinstance(text, bytes):
            text = text.decode(errors="backslashreplace")
        return Failure(Trouble.REFUSED, str(text or error), error.status_code)
    if isinstance(error, requests.exceptions.Timeout):
        return Failure(Trouble.LATE, str(error))
    if isinstance(error, (requests.exceptions.ConnectionError, ConnectionError, EOFError)):
        return Failure(Trouble.ABSENT, _root(error))
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return Failure(Trouble.ABSENT, _root(error))
    if isinstance(error, docker.errors.DockerException) and _is_absence(error):
        return Failure(Trouble.ABSENT, _root(error))
    return Failure(Trouble.OTHER, f"{type(error).__name__}: {error}")


def _chain(error: BaseException) -> list[BaseException]:
    """The error, what it wraps in its arguments, and what caused it: outermost first."""
    found: list[BaseException] = []
    todo: list[BaseException] = [error]
    while todo:
        one = todo.pop(0)
        if one in found:
            continue
        found.append(one)
        todo += [a for a in one.args if isinstance(a, BaseException)]
        todo += [c for c in (one.__cause__, one.__context__) if c is not None]
    return found


def _is_absence(error: BaseException) -> bool:
    return any(isinstance(e, (ConnectionError, FileNotFoundError)) for e in _chain(error))


def _root(error: BaseException) -> str:
    """The operating system's words where there are some: "Connection refused"."""
    for one in _chain(error):
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
    return str(_chain(error)[-1]) or type(error).__name__


def ask(
    work: Callable[[], T],
    *,
    deadline: float,
    name: str = "engine",
    tell: Callable[[Answer[T]], None] | None = None,
) -> Answer[T]:
    """Do `work` in a thread of its own and wait for at most `deadline` seconds.

    The thread is a daemon: when nobody waits any more it holds nothing up, and what it
    brings is dropped.
    """
    box: queue.SimpleQueue[Answer[T]] = queue.SimpleQueue()
    asked = clock.now()

    def body() -> None:
        clock.ahead()
        try:
            value = work()
        except Exception as error:
            box.put(Answer(None, failure_of(error), asked, clock.now()))
        else:
            box.put(Answer(value, None, asked, clock.now()))

    threading.Thread(target=body, name=name, daemon=True).start()
    try:
        answer = box.get(timeout=deadline)
    except queue.Empty:
        late = Failure(Trouble.LATE, f"no answer within {deadline:g} s")
        answer = Answer(None, late, asked, clock.now())
    if tell:
        tell(answer)
    return answer
