"""A class list saved as "UTF-8 with BOM" (Windows editors) must not put U+FEFF into the first class's name."""
import sys, tempfile
from pathlib import Path
from condinst_export.export_options import class_names_from; _class_names = lambda path, count: class_names_from(path)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "names.txt"
    path.write_bytes(b"\xef\xbb\xbfcar\r\nbus\r\n")
    names = _class_names(path, 2)  # condinst-export --class-names names.txt
print(names)
bad = names != ("car", "bus")
print("FAIL" if bad else "PASS"); sys.exit(bad)
