"""Raw text → a frozen fact, or None. Never an exception, never a guess.

Rules. One file per kind of text. A parser reads one record and says what it says, not
what it means for a trial. Whatever a process, a container or an image may name itself
(comm, log text, paths, labels) is hostile: expressions are anchored at both ends and
such a field takes what is left between fixed members. Every docstring shows a record
as the source really writes it, and is run as a test.
"""

from __future__ import annotations

import re

CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_IN_PATH = re.compile(r"(?:/|docker-)(?P<id>[0-9a-f]{64})(?=\.scope(?:/|$)|/|$)")


def container_of(cgroup: str) -> str | None:
    """The id of the container a cgroup path belongs to, by its last id-like step.

    >>> container_of("/docker/" + "ab" * 32) == "ab" * 32
    True
    >>> container_of("/system.slice/docker-" + "cd" * 32 + ".scope/inner") == "cd" * 32
    True
    >>> container_of("/user.slice") is None
    True
    """
    found = None
    for found in _IN_PATH.finditer(cgroup):  # noqa: B007  the last one is wanted
        pass
    return found["id"] if found else None


def below(path: str, ancestor: str) -> bool:
    """Is `path` strictly below `ancestor`? Both are cgroup paths, "/" is the root.

    >>> below("/pen/docker/x", "/pen"), below("/pen", "/pen"), below("/pens/x", "/pen")
    (True, False, False)
    """
    path, ancestor = "/" + path.strip("/"), "/" + ancestor.strip("/")
    if path == ancestor:
        return False
    return ancestor == "/" or path.startswith(ancestor + "/")
