"""A network that keeps the contract, and whose scores or boxes are NaN: one line, nothing written.

Script 10 is refused earlier, when its outputs are compared with the contract.
"""
from _common import *
import onx, numpy as np
from onnx import helper, numpy_helper

bad = []
for name in ("scores", "boxes"):
    model = onx.onnx.load(ONNX)
    (node,) = [n for n in model.graph.node if name in n.output]
    node.output[list(node.output).index(name)] = "finite_" + name
    model.graph.node.extend([
        helper.make_node("Constant", [], ["nan"], value=numpy_helper.from_array(np.array(np.nan, np.float32), "nan")),
        helper.make_node("Add", ["finite_" + name, "nan"], [name])])
    (W / f"{name}.onnx").write_bytes(model.SerializeToString())
    r = run("condinst-predict", sorted(Path(UN).glob("*.png"))[0], "--model", W / f"{name}.onnx", "--out", W / name)
    named = name.encode() in r.err and b"NaN" in r.err
    written = (W / name / "detections.json").exists()
    print(f"  {name}: rc={r.rc} traceback={r.tb} names it={named} results written={written} {r.last[:150]}", flush=True)
    bad.append(r.rc != 1 or r.tb or not named or written)
judge(any(bad))
