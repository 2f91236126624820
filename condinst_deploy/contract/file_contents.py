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

_MAGIC = 0x1950A86A20F9469CFC6C
"""Number that PyTorch before 1.6 wrote first."""

_BINARY_MAGIC, _TEXT_MAGIC = _MAGIC.to_bytes(10, "little"), f"L{_MAGIC}L".encode()
"""As protocols from 2 on write it, behind at most 13 bytes, and as 0 and 1 do, which write text."""

_MAGIC_WITHIN = 32

_TEXT_PICKLES = (b"(dp0\n", b"}q\0", b"ccollections\nOrderedDict\n")
"""Starts of dictionaries in the pickle protocols 0 and 1, which have no mark of their own."""

_LAST_SAFE = 3
"""Last pickle protocol that PyTorch reads safely in its old format."""

_ONNX_VERSION, _NEWEST_ONNX = 0x08, 50
"""Tag of the field `ir_version`, the first one that writers of ONNX write, and a bound of its values."""

_ONNX_NEXT = {0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72}
"""Tags of the fields of ONNX's `ModelProto` that may follow."""


def start_of(path: Path) -> bytes:
    """The first bytes of an ordinary file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return stream.read(START)


def unsafe_pickle_words(start: bytes) -> str | None:
    """What a pickle is that PyTorch cannot read safely, in the words of messages; None for other files.

    Args:
        start: the first bytes. Fewer than 32 after the mark of a pickle are a truncated file, which its reader names.
    """
    if start.startswith(_TEXT_MAGIC):
        return "a checkpoint that torch.save wrote with pickle_protocol=0 or 1"
    is_binary = start.startswith(_PICKLES) and len(start) >= _MAGIC_WITHIN
    if is_binary and _BINARY_MAGIC in start[:_MAGIC_WITHIN]:
        return None if start[1] <= _LAST_SAFE else f"a checkpoint that torch.save wrote with pickle_protocol={start[1]}"
    if is_binary or start.startswith(_TEXT_PICKLES):
        return "a pickle that torch.save did not write"
    return None


def words_of(start: bytes) -> str | None:
    """What a file that begins with these bytes is, in the words of messages; None if they are no known ones."""
    if start.startswith(_ZIP):
        return CHECKPOINT_WORDS if b"/data.pkl" in start or b"/.format_version" in start else ZIP_WORDS
    if start.startswith(_PICKLES):
        return CHECKPOINT_WORDS
    if len(start) > 2 and start[0] == _ONNX_VERSION and 0 < start[1] <= _NEWEST_ONNX and start[2] in _ONNX_NEXT:
        return ONNX_WORDS
    if start[:14].lower().startswith(_PAGES):
        return "an HTML page, as failed downloads are"
    return next((words for mark, words in _MARKS if start.startswith(mark)), None)
