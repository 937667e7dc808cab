"""Where things lie: the root of all artefacts, names as path components, paths and URIs alike.

A location is a path, or a URI that `pyarrow.fs` understands (``s3://``, ``gs://``, ``file://``).
"""

import os
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

import pyarrow.fs as pafs

_MAX_NAME_BYTES: Final = 200
_SAFE_CHARACTERS: Final = " -_.@+=,"


def resolve_root(option: str | None) -> str:
    """Root of all artefacts: the option, else ``$QUASAR_ROOT``, else ``~/quasar``.

    Never the working directory: inside a Ray job that is a copy which is thrown away.
    """
    chosen = option or os.environ.get("QUASAR_ROOT") or str(Path.home() / "quasar")
    if "://" in chosen:
        return chosen.rstrip("/")
    return str(Path(chosen).expanduser().resolve())


def is_local(root: str) -> bool:
    """Whether only this machine sees the root."""
    return "://" not in root or root.startswith("file://")


def local_folder(root: str) -> Path:
    """Folder for what must lie on this machine: the root where that is local, else ``~/quasar``.

    >>> local_folder("file:///data/a%20b")
    PosixPath('/data/a b')
    """
    return Path(open_filesystem(root)[1]) if is_local(root) else Path.home() / "quasar"


def encode_name(name: str) -> str:
    """A sequence name as one safe path component; `decode_name` reverses it.

    Raises:
        ValueError: an empty name, or one that is too long for a file.

    >>> encode_name("b1c66a42-6f7d68ca"), encode_name("../etc/passwd")
    ('b1c66a42-6f7d68ca', '%2E.%2Fetc%2Fpasswd')
    """
    if not name:
        raise ValueError("a sequence has an empty name; expected at least one character")
    encoded = quote(name, safe=_SAFE_CHARACTERS)
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]
    if len(encoded) > _MAX_NAME_BYTES:
        raise ValueError(
            f"sequence name {name[:40]!r}... takes {len(encoded)} bytes as a file name, more than "
            f"{_MAX_NAME_BYTES}; rename the sequence"
        )
    return encoded


def decode_name(encoded: str) -> str:
    """The sequence name behind a path component."""
    return unquote(encoded)


def open_filesystem(location: str) -> tuple[pafs.FileSystem, str]:
    """The file system behind a path or URI, and the path on it."""
    if "://" not in location:
        return pafs.LocalFileSystem(), location
    filesystem, path = pafs.FileSystem.from_uri(location)
    return filesystem, path


def join_location(location: str, *names: str) -> str:
    """Append path components, in a URI before its query (S3 endpoints are given there).

    >>> join_location("/data", "a b"), join_location("s3://bucket?region=x", "a b", "%2E")
    ('/data/a b', 's3://bucket/a%20b/%252E?region=x')
    """
    if "://" not in location:
        return "/".join([location.rstrip("/"), *names])
    base, mark, query = location.partition("?")
    # Whoever parses the URI decodes it: an encoded sequence name must come out as it was.
    return "/".join([base.rstrip("/"), *(quote(name, safe="") for name in names)]) + mark + query


def list_folders(location: str) -> list[str]:
    """Names of the folders in a place, as they are there; none where there is no such place."""
    filesystem, path = open_filesystem(location)
    selector = pafs.FileSelector(path, recursive=False, allow_not_found=True)
    infos = filesystem.get_file_info(selector)
    return [info.base_name for info in infos if info.type == pafs.FileType.Directory]
