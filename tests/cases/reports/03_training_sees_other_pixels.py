"""Training and inference must turn one picture file into the same RGB pixels."""
import json, sys, tempfile
from pathlib import Path
import numpy as np
from PIL import Image
from condinst_deploy.data.coco import CocoDataset       # what condinst-train decodes with
from condinst_deploy.imaging.decode import rgb_from     # what Predictor, condinst-eval and training's own AP decode with

grey = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
rgb = np.dstack([grey, grey.T, 255 - grey])
half = np.where(np.arange(64) < 32, 0, 255).astype(np.uint8) * np.ones((64, 1), np.uint8)
palette = Image.fromarray(rgb).quantize(16)
with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    Image.fromarray(rgb).save(folder / "rgb8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "grey16.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "grey16.tif")
    Image.fromarray(np.dstack([rgb, half])).save(folder / "rgba.png")
    Image.fromarray(np.dstack([grey, half]), "LA").save(folder / "la.png")
    palette.save(folder / "palette.gif", transparency=0)
    Image.fromarray(np.dstack([rgb, half])).save(folder / "rgba.webp", lossless=True)
    names = sorted(p.name for p in folder.iterdir())
    (folder / "a.json").write_text(json.dumps({
        "images": [{"id": n, "file_name": name, "height": 64, "width": 64} for n, name in enumerate(names)],
        "annotations": [], "categories": [{"id": 1, "name": "thing"}]}))
    data, bad = CocoDataset(folder / "a.json", folder, training=False), False
    for n, name in enumerate(names):
        trained, inferred = data[n].image.astype(int), rgb_from(folder / name).astype(int)
        worst = abs(trained - inferred).max()
        bad |= bool(worst)
        print(f"{name}: largest difference {worst}; mean in training {trained.mean():.0f}, at inference {inferred.mean():.0f}")
print("FAIL" if bad else "PASS"); sys.exit(bad)
