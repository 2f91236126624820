"""A network that keeps the contract and never ends: Ctrl-C and SIGTERM end it in one line.

Script 11 is refused earlier, when its outputs are compared with the contract.
"""
from _common import *
import onx, numpy as np
from onnx import helper, numpy_helper

model = onx.onnx.load(ONNX)
(node,) = [n for n in model.graph.node if "scores" in n.output]
node.output[list(node.output).index("scores")] = "own_scores"
loop = onx.loop(2**62)
zero = helper.make_node("Constant", [], ["nothing"], value=numpy_helper.from_array(np.zeros(1, np.float32), "nothing"))
model.graph.node.extend([*loop, zero, helper.make_node("Mul", ["vend", "nothing"], ["end"]), helper.make_node("Add", ["own_scores", "end"], ["scores"])])
(W / "m.onnx").write_bytes(model.SerializeToString())
bad = []
for number in (signal.SIGINT, signal.SIGTERM):
    # a shell that runs the tests in the background lets its children ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    r = run("condinst-predict", sorted(Path(UN).glob("*.png"))[0], "--model", W / "m.onnx", "--out", W / "o", sig=number, sig_after=20, timeout=25)
    ran = b"onnxruntime on cpu" in r.err
    print(f"  {number.name}: rc={r.rc} hang={r.hang} {r.s:.0f}s the network ran={ran} traceback={r.tb} {r.last[:120]}", flush=True)
    bad.append(r.hang or r.rc != 128 + number or not ran or r.tb or list(W.rglob("*.partial")))
judge(any(bad))
