from _common import *
from condinst_deploy.support.atomic_write import atomic_path
import threading
victim = W / "victim"; victim.write_text("precious"); out = W / "shared" / "images.json"; out.parent.mkdir()
(out.parent / f".images.json.{os.getpid()}.{threading.get_native_id()}.partial").symlink_to(victim)  # pid and thread id: guessable
with atomic_path(out) as t: t.write_text("overwritten")
judge(victim.read_text() != "precious", note=f"file behind a planted symlink now holds {victim.read_text()!r}; output is a symlink: {out.is_symlink()}")
