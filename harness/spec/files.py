"""Where the loader gets its text: the disk, or the frozen files of a campaign.

Rule: the loader's only door to files, and it only reads. Everything read from the disk
is kept, so that a campaign can be frozen and loaded again without it.
"""

from __future__ import annotations

import posixpath
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST_SCRIPT = 1 << 20


class NoText(Exception):
    """A file that can not be had.

    Attributes:
        why: Why not.
        fix: What to do.
    """

    def __init__(self, why: str, fix: str) -> None:
        self.why, self.fix = why, fix
        super().__init__(why)


class Files(Protocol):
    """What the loader asks. Paths are absolute, or whatever the frozen campaign has."""

    texts: dict[str, str]

    def read(self, path: str) -> str:
        """The text of a file.

        Raises:
            NoText: there is none.
        """

    def kind(self, path: str) -> str | None:
        """ "file", "directory", None when nothing is there, "any" when nobody knows."""


class Disk:
    """The real thing. `texts` holds what was read, by absolute path."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def read(self, path: str) -> str:
        if path in self.texts:
            return self.texts[path]
        try:
            mode = Path(path).stat().st_mode
            # Opening a pipe or a device would wait for ever.
            if not stat.S_ISREG(mode):
                kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
                raise NoText(f"that is {kind}", "name a file")
            with Path(path).open("rb") as stream:
                raw = stream.read(LARGEST_SCRIPT + 1)
        except FileNotFoundError:
            raise NoText("there is no such file", _relative_to(path)) from None
        except (OSError, ValueError) as error:
            text = getattr(error, "strerror", None) or str(error)
            raise NoText(f"it can not be read: {text}", "check the path and its rights") from None
        if len(raw) > LARGEST_SCRIPT:
            raise NoText(f"larger than {LARGEST_SCRIPT} bytes", "split it")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise NoText(f"not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
        self.texts[path] = text
        return text

    def kind(self, path: str) -> str | None:
        try:
            mode = Path(path).stat().st_mode
        except (OSError, ValueError):
            return None
        return "directory" if stat.S_ISDIR(mode) else "file"


class Frozen:
    """The files of a campaign. What is not text (a build directory) is taken on trust."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = dict(texts)

    def read(self, path: str) -> str:
        if path not in self.texts:
            raise NoText("it is not among the frozen files", "load the matrix from the disk")
        return self.texts[path]

    def kind(self, path: str) -> str | None:
        return "file" if path in self.texts else "any"


def _relative_to(path: str) -> str:
    return f"check the path; it is looked for in {posixpath.dirname(path)}"
