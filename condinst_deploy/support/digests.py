"""SHA-256 digests, in hexadecimal."""

import hashlib
from pathlib import Path


def sha256_of(path: Path) -> str:
    """SHA-256 of a file; it is read in blocks."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_of_bytes(content: bytes) -> str:
    """SHA-256 of bytes in memory."""
    return hashlib.sha256(content).hexdigest()


def sha256_of_text(text: str) -> str:
    """SHA-256 of a text in UTF-8; undecodable bytes of a file name keep their value."""
    return sha256_of_bytes(text.encode("utf-8", "surrogateescape"))
