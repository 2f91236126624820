"""A photograph whose EXIF has one odd entry is read by Predictor; training must read it as well, or name it in one line."""
import io, json, struct, sys, tempfile
from pathlib import Path
import numpy as np
from PIL import Image
from condinst_deploy.data.coco import CocoDataset
from condinst_deploy.errors import CondInstError
from condinst_deploy.imaging.decode import rgb_from

def photograph(entry, extra=b""):
    out = io.BytesIO(); Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(out, "JPEG"); jpeg = out.getvalue()
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0II" + struct.pack("<HIH", 42, 8, 2) + turned + entry + struct.pack("<I", 0) + extra
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]

at = 8 + 2 + 2 * 12 + 4
cases = {
    "negative ImageLength (SLONG)": photograph(struct.pack("<HHIi", 0x0101, 9, 1, -5)),
    "negative ImageWidth (SSHORT)": photograph(struct.pack("<HHIhH", 0x0100, 8, 1, -5, 0)),
    "negative XResolution (SRATIONAL)": photograph(struct.pack("<HHII", 0x011A, 10, 1, at), struct.pack("<ii", -1, 0)),
    "StripOffsets as RATIONAL": photograph(struct.pack("<HHII", 0x0111, 5, 1, at), struct.pack("<II", 1, 2)),
    "XResolution NaN (DOUBLE)": photograph(struct.pack("<HHII", 0x011A, 12, 1, at), struct.pack("<d", float("nan"))),
}
bad = False
with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    for name, content in cases.items():
        (folder / "p.jpg").write_bytes(content)
        shape = rgb_from(folder / "p.jpg").shape
        (folder / "a.json").write_text(json.dumps({
            "images": [{"id": 1, "file_name": "p.jpg", "height": shape[0], "width": shape[1]}],
            "annotations": [], "categories": [{"id": 1, "name": "thing"}]}))
        try:
            trained = CocoDataset(folder / "a.json", folder, training=False)[0].image.shape
        except CondInstError as e:
            trained = f"refused: {e}"[:90]
        except Exception as e:
            trained = f"{type(e).__module__}.{type(e).__name__}: {e}"
        bad |= trained != shape
        print(f"{name}: inference {shape}, training {trained}")
print("FAIL" if bad else "PASS"); sys.exit(bad)
