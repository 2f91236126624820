"""Files behind any URL that fsspec knows: listing them, and reading images."""

import os
import re
import time
from glob import has_magic
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from condinst_deploy.errors import ConfigError, ImageError
from condinst_deploy.shown_text import first_line
from condinst_deploy.support.extras import missing_library

LARGEST_IMAGE = 256 * 1024 * 1024
"""Bytes of the largest image file that is read from a URL."""

ATTEMPTS = 3
"""Times that a file is read before it counts as unreadable."""

FIRST_PAUSE = 0.5
"""Seconds before the second attempt; each further one waits twice as long."""

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*@")
_SECRETS = re.compile(r"([?&][^=&\s]*(?:sig|token|secret|password|credential|key)[^=&\s]*=)[^&#\s'\")]+", re.IGNORECASE)
"""Parameters of signed URLs: whoever has them can read the file."""

FSSPEC_EXTRAS = {
    "http": "http", "https": "http", "s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "abfs",
    "abfss": "abfs", "az": "abfs", "adl": "adl", "ssh": "ssh", "sftp": "sftp", "smb": "smb", "github": "github",
}  # fmt: skip
"""Protocol -> extra of fsspec that brings its library."""


class StoredFile(NamedTuple):
    """A file of a listing."""

    path: str  # path or URL
    size: int  # bytes
    state: str  # entity tag or time of the last change; empty if the storage gives neither


def is_url(text: str) -> bool:
    """Return True for a URL that fsspec opens. `file://` URLs are local paths."""
    return _SCHEME.match(text) is not None and not text.lower().startswith("file://")


def local_path(text: str) -> Path:
    """Return the path of a local file or of a `file://` URL.

    Raises:
        ConfigError: it is empty; `Path` takes that for the current folder.
    """
    path = _without_scheme(text)
    if not path:
        raise ConfigError(f"a path is {text!r}; expected the path or URL of a file or folder ('.' is the current one)")
    return Path(path)


def _without_scheme(text: str) -> str:
    """The path in a `file://` URL, other texts as they are.

    `%20` is a space, as browsers and file managers write it, unless a file has the very name.
    """
    if not text.lower().startswith("file://"):
        return text
    path = text[len("file://") :]
    if path.lower().startswith("localhost/"):
        path = path[len("localhost") :]
    if "%" not in path or os.path.lexists(path):
        return path
    return unquote(path, errors="surrogateescape")


def absolute(text: str) -> str:
    """Return a local path or pattern from the root on; workers have other working folders. URLs stay as they are.

    Raises:
        ConfigError: it is empty.
    """
    return text if is_url(text) else os.path.abspath(local_path(text))  # noqa: PTH100  (without links)


def public_url(text: str) -> str:
    """Remove a user name, a password and signatures from a URL: manifests and messages must not hold them."""
    return _without_secrets(text) if is_url(text) else text


def _without_secrets(text: str) -> str:
    return _SECRETS.sub(r"\1...", _CREDENTIALS.sub("", text))


def public_reason(error: BaseException) -> str:
    """Return the first line of what a library says, which may quote a URL, without secrets."""
    return _without_secrets(first_line(error))


def _library_of(url: str) -> str:
    """The command that brings the library of a URL's protocol."""
    protocol = url.partition("://")[0].lower()
    extra = FSSPEC_EXTRAS.get(protocol)
    return f"pip install 'fsspec[{extra}]'" if extra else "pip install it"


def filesystem_of(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path inside it.

    Raises:
        ConfigError: fsspec or the library of the protocol is missing, or the protocol is unknown.
        ImageError: the storage cannot be reached.
    """
    try:
        import fsspec
    except ImportError as e:
        raise ConfigError(f"{public_url(url)}: {missing_library(e) or e}; or give a local path") from e
    # "::" is part of a name here; fsspec takes it for a chain of file systems
    place = url.partition("::")[0].rpartition("/")[0] if "::" in url else url
    try:
        filesystem, path = fsspec.core.url_to_fs(place)
    except ImportError as e:  # fsspec's text names the library
        raise ConfigError(
            f"{public_url(url)} needs one more library ({public_reason(e)}); {_library_of(url)}, or give a local path"
        ) from e
    except OSError as e:  # some protocols connect here
        raise ImageError(f"{public_url(url)} cannot be reached ({public_reason(e)})") from e
    except Exception as e:  # each storage library raises its own exceptions
        raise ConfigError(
            f"{public_url(url)} cannot be opened ({public_reason(e)}); expected a URL that fsspec knows"
        ) from e
    return filesystem, path if place == url else f"{path.rstrip('/')}{url[len(place) :]}"


def list_files(url: str, pattern: bool, recursive: bool = True) -> list[StoredFile]:
    """List the files below a folder URL, or those that match a glob pattern, sorted by path.

    Args:
        url: of a folder or a pattern.
        pattern: whether it is a pattern.
        recursive: list the folders below a folder, too.

    Raises:
        ImageError: the storage cannot be listed.
    """
    filesystem, path = filesystem_of(url)
    try:
        if pattern:
            found = filesystem.glob(path, detail=True)
        else:
            found = filesystem.find(path, maxdepth=None if recursive else 1, detail=True)
    except Exception as e:  # each storage library raises its own exceptions
        raise ImageError(f"{public_url(url)} cannot be listed ({public_reason(e)})") from e
    if not found:  # fsspec leaves out folders that it may not list
        entry_type(re.split(r"/[^/]*[*?\[]", url, maxsplit=1)[0] if pattern else url)
    protocol, rest = url.split("://", 1)
    # a server's host is no part of its files' names, and a bucket is
    start = f"{protocol}://{rest.split('/', 1)[0] if hasattr(filesystem, 'host') else ''}"
    entries = (entry for entry in found.values() if entry.get("type") == "file")
    return sorted(
        StoredFile(
            _name(entry) if is_url(_name(entry)) else f"{start}{_name(entry)}",
            int(entry.get("size") or 0),
            _state(entry),
        )
        for entry in entries
    )


def joined(folder: str, name: str) -> str:
    """Return the path or URL of a name in a list or a table; relative ones start at its folder."""
    if is_url(name):
        return name
    # no Path: it keeps the names of folders and files in its own table
    path = _without_scheme(name)
    return path if path.startswith("/") or not folder else f"{folder}/{path}"


def read_image(url: str) -> bytes:
    """Read the content of an image file behind a URL.

    Raises:
        FileNotFoundError: no file is there.
        ImageError: the file is too large.
    """
    filesystem, path = filesystem_of(url)
    try:
        content: bytes = filesystem.cat_file(path, start=0, end=LARGEST_IMAGE + 1)
    except Exception:  # object stores refuse a range of an empty object
        if not _is_empty(filesystem, path):
            raise
        return b""
    if len(content) > LARGEST_IMAGE:
        raise ImageError(f"{public_url(url)} has more than {LARGEST_IMAGE} bytes; expected an image file")
    return content


def image_content(url: str) -> bytes:
    """Read the content of an image file behind a URL, again if the storage fails.

    Raises:
        ImageError: caused by `FileNotFoundError` if no file is there, by another error if the storage cannot be read,
            and by none if the file is too large.
    """
    shown = public_url(url)
    for attempt in range(ATTEMPTS):
        try:
            return read_image(url)
        except FileNotFoundError as e:
            raise ImageError(f"no image at {shown}") from e
        except ImageError:
            raise
        except Exception as e:  # each storage library raises its own exceptions
            again = not isinstance(e, ConfigError | PermissionError)  # these would end the same way
            if not again or attempt + 1 == ATTEMPTS:
                raise ImageError(f"{shown} cannot be read ({public_reason(e)})") from e
        time.sleep(FIRST_PAUSE * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def entry_type(url: str) -> str | None:
    """Return `file` or `directory` for what is behind a URL, None for nothing.

    Raises:
        ImageError: the storage cannot be asked, for want of permission or of a connection for example.
    """
    filesystem, path = filesystem_of(url)
    try:
        return str(filesystem.info(path)["type"])  # `exists` would answer no to every error
    except FileNotFoundError:
        return None
    except Exception as e:  # each storage library raises its own exceptions
        raise ImageError(f"{public_url(url)} cannot be read ({public_reason(e)})") from e


def is_pattern(url: str) -> bool:
    """Return True for a glob pattern. In addresses of the web a `?` begins the query."""
    return has_magic(url) and not url.lower().startswith(("http://", "https://"))


def _name(entry: dict[str, Any]) -> str:
    return str(entry["name"])


def _is_empty(filesystem: Any, path: str) -> bool:
    try:
        return bool(filesystem.info(path).get("size") == 0)
    except Exception:  # each storage library raises its own exceptions
        return False


def _state(entry: dict[str, Any]) -> str:
    for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created"):
        if entry.get(key) is not None:
            return str(entry[key]).strip('"')
    return ""
