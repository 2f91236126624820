"""What a file is by its first bytes: names can be wrong."""

from pathlib import Path

CHECKPOINT_WORDS, ONNX_WORDS, ENGINE_WORDS = "a checkpoint (.pth)", "an exported file (.onnx)", "an engine (.engine)"
ZIP_WORDS = "a zip file"

START = 512
"""Bytes of a file that are looked at. PyTorch's first entry, `NAME/data.pkl`, is named in them."""

_MARKS: tuple[tuple[bytes, str], ...] = (
    (b"ftrt", ENGINE_WORDS),  # TensorRT
    (b"vtrt", ENGINE_WORDS),  # TensorRT for RTX
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"version https://git-lfs", "a pointer of Git LFS (git lfs pull brings the file itself)"),
)

_PAGES = (b"<!doctype html", b"<html")  # in lower case

_ZIP = b"PK\x03\x04"

_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
"""Starts of what PyTorch wrote before 1.6."""

_ONNX_VERSION, _NEWEST_ONNX = 0x08, 50
"""Tag of the field `ir_version`, the first one that writers of ONNX write, and a bound of its values."""

_ONNX_NEXT = {0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72}
"""Tags of the fields of ONNX's `ModelProto` that may follow."""


def content_words(path: Path) -> str | None:
    """What an ordinary file is by its first bytes, in the words of messages; None if they are no known ones.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return words_of(stream.read(START))


def words_of(start: bytes) -> str | None:
    """What a file that begins with these bytes is; None if they are no known ones."""
    if start.startswith(_ZIP):
        return CHECKPOINT_WORDS if b"/data.pkl" in start or b"/.format_version" in start else ZIP_WORDS
    if start.startswith(_PICKLES):
        return CHECKPOINT_WORDS
    if len(start) > 2 and start[0] == _ONNX_VERSION and 0 < start[1] <= _NEWEST_ONNX and start[2] in _ONNX_NEXT:
        return ONNX_WORDS
    if start[:14].lower().startswith(_PAGES):
        return "an HTML page, as failed downloads are"
    return next((words for mark, words in _MARKS if start.startswith(mark)), None)
