"""In what two campaigns differ besides their results: kernel, engine, image, settings.

Law: reads what was frozen in campaign.yaml and nothing else. Names and times that differ
between any two campaigns are no differences.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# What campaign.yaml says about the world, apart from the files.
_PARTS = ("monitors", "auto", "versions", "host", "machine", "images")

# Different in every campaign, and no reason for a container to die.
_OWN = frozenset(
    {
        "name", "id", "boot_id", "socket", "docker_host", "pid", "root", "data_root", "directory",
        "label", "cgroup_path", "started", "address", "netns", "uptime",
    }
)  # fmt: skip


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """[{what, a, b}] of two campaigns' meta; None stands for "not there".

    >>> differences({"machine": {"kernel": "6.1"}}, {"machine": {"kernel": "6.8"}})
    [{'what': 'machine.kernel', 'a': '6.1', 'b': '6.8'}]
    """
    flat_a, flat_b = dict(_world(a)), dict(_world(b))
    found = [
        {"what": key, "a": flat_a.get(key), "b": flat_b.get(key)}
        for key in dict.fromkeys([*flat_a, *flat_b])
        if flat_a.get(key) != flat_b.get(key)
    ]
    return found + _settings(a, b)


def _world(meta: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for part in _PARTS:
        if part in meta:
            yield from _flat(part, meta[part])


def _flat(prefix: str, content: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for key, value in content.items():
            if key not in _OWN:
                yield from _flat(f"{prefix}.{key}", value)
    elif isinstance(content, list):
        yield prefix, [str(x) for x in content]
    else:
        yield prefix, content


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Keys of the frozen files that differ, file by file; scripts as a whole."""
    files_a, files_b = _paired(_files(a), _files(b))
    found: list[dict[str, Any]] = []
    for role in dict.fromkeys([*files_a, *files_b]):
        one, other = files_a.get(role), files_b.get(role)
        if one == other:
            continue
        keys_a, keys_b = _keys(one), _keys(other)
        if keys_a is None or keys_b is None:
            found.append({"what": role, "a": _said(one), "b": _said(other)})
            continue
        found += [
            {"what": f"{role}: {key}", "a": keys_a.get(key), "b": keys_b.get(key)}
            for key in dict.fromkeys([*keys_a, *keys_b])
            if keys_a.get(key) != keys_b.get(key)
        ]
    overrides = [list((meta.get("frozen") or {}).get("overrides") or ()) for meta in (a, b)]
    if overrides[0] != overrides[1]:
        found.append({"what": "overrides", "a": overrides[0], "b": overrides[1]})
    return found


def _files(meta: Mapping[str, Any]) -> dict[str, str]:
    """The role of a file in the campaign → its text; where it lay does not matter."""
    frozen = meta.get("frozen") or {}
    main = frozen.get("main")
    return {
        "matrix" if path == main else PurePath(path).name: text
        for path, text in (frozen.get("files") or {}).items()
    }


def _paired(a: dict[str, str], b: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """One YAML file on each side that the other does not have: the same file, renamed."""
    one, other = (
        [name for name in mine if name not in theirs and name.endswith((".yaml", ".yml"))]
        for mine, theirs in ((a, b), (b, a))
    )
    if len(one) != 1 or len(other) != 1:
        return a, b
    role = f"{one[0]}, {other[0]}"
    return (
        {role if name == one[0] else name: text for name, text in a.items()},
        {role if name == other[0] else name: text for name, text in b.items()},
    )


def _keys(text: str | None) -> dict[str, Any] | None:
    """A YAML mapping flattened; None for what is none (a script)."""
    import yaml

    if text is None:
        return {}
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    if not isinstance(content, dict):
        return None
    flat = dict(_flat("", content))
    # What things are called and how they are explained kills nobody.
    return {key[1:]: v for key, v in flat.items() if key not in {".name", ".about"}}


def _said(text: str | None) -> str | None:
    return None if text is None else f"{len(text)} characters, changed"
