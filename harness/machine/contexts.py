"""Which engine the user means: DOCKER_HOST, a docker context, or the usual socket.

Rule: read as the docker program itself would, from its own files, without running it
and without changing anything. An explicit name in the matrix wins over the environment.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from harness.errors import EnvironmentInvalid

DEFAULT = "unix:///var/run/docker.sock"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An engine's address. tls: paths by role (ca, cert, key); chosen_by says who named it."""

    url: str
    chosen_by: str
    tls: tuple[tuple[str, str], ...] = ()
    verify: bool = True


def endpoint(wanted: str | None = None) -> Endpoint:
    """Resolve a URL, a context's name, or nothing (the environment, the current context).

    Raises:
        EnvironmentInvalid: the context is not there or has no engine.
    """
    if wanted:
        if "://" in wanted:
            return _of_url(wanted, "the matrix (machine.context)")
        return _context(wanted, "the matrix (machine.context)")
    if os.environ.get("DOCKER_HOST"):
        return _of_url(os.environ["DOCKER_HOST"], "DOCKER_HOST")
    if os.environ.get("DOCKER_CONTEXT"):
        return _context(os.environ["DOCKER_CONTEXT"], "DOCKER_CONTEXT")
    current = _config().get("currentContext")
    if current:
        return _context(str(current), "the current docker context")
    return Endpoint(DEFAULT, "docker's default")


def _folder() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def _config() -> dict[str, object]:
    try:
        body = json.loads((_folder() / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


def _of_url(url: str, chosen_by: str) -> Endpoint:
    folder = os.environ.get("DOCKER_CERT_PATH")
    if url.startswith("tcp://") and os.environ.get("DOCKER_TLS_VERIFY"):
        return Endpoint(url, chosen_by, _files(Path(folder) if folder else _folder()))
    return Endpoint(url, chosen_by)


def _files(folder: Path) -> tuple[tuple[str, str], ...]:
    found = ((role, folder / f"{role}.pem") for role in ("ca", "cert", "key"))
    return tuple((role, str(path)) for role, path in found if path.is_file())


def _context(name: str, chosen_by: str) -> Endpoint:
    if name == "default":
        return Endpoint(DEFAULT, chosen_by)
    key = hashlib.sha256(name.encode()).hexdigest()
    meta = _folder() / "contexts/meta" / key / "meta.json"
    try:
        engine = json.loads(meta.read_text())["Endpoints"]["docker"]
        return Endpoint(
            str(engine["Host"]),
            f"{chosen_by}: {name}",
            _files(_folder() / "contexts/tls" / key / "docker"),
            verify=not engine.get("SkipTLSVerify", False),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        known = ", ".join(sorted(contexts())) or "none"
        raise EnvironmentInvalid(
            f"no docker context {name} with an engine",
            where=chosen_by,
            why=f"{meta}: {error}",
            mend=f"docker context ls; there are: {known}",
        ) from error


def contexts() -> dict[str, str]:
    """Every context there is → its engine's URL."""
    found = {"default": DEFAULT}
    for meta in (_folder() / "contexts/meta").glob("*/meta.json"):
        try:
            body = json.loads(meta.read_text())
            found[str(body["Name"])] = str(body["Endpoints"]["docker"]["Host"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
