"""Two class names in a non-Latin script must not look the same in an overlay."""
import sys
import numpy as np
from condinst_deploy.imaging.drawing import overlay
from condinst_deploy.masks import Masks

def drawn(name):
    masks = Masks.from_dense(np.zeros((1, 80, 240), bool))
    return np.asarray(overlay(np.zeros((80, 240, 3), np.uint8), np.array([[5, 40, 90, 70]], np.float32), [name], masks).image)

bad = False
for a, b in (("cat", "cow"), ("\u732b", "\u72ac"), ("\u0431\u044b\u043a", "\u043a\u043e\u0442"), ("\u0641\u064a\u0644", "\u062c\u0645\u0644")):
    same = bool((drawn(a) == drawn(b)).all())
    bad |= same
    print(ascii(a), ascii(b), "drawn alike" if same else "differ")
print("FAIL" if bad else "PASS"); sys.exit(bad)
