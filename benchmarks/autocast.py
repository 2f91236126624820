"""Convert an exported file with NVIDIA ModelOpt's AutoCast, for a comparison with our own precision policy.

It runs in an environment of its own, because ModelOpt pins other versions than this toolkit:

    python3 -m venv /tmp/modelopt
    /tmp/modelopt/bin/pip install nvidia-modelopt==0.47.0 "onnx~=1.21" onnxruntime onnxslim onnx-graphsurgeon \
        onnxconverter-common onnxscript polygraphy cppimport lief
    /tmp/modelopt/bin/python benchmarks/autocast.py model.inlined.onnx model.autocast.onnx [--calibration inputs.npz]

Local functions must be inlined before (`condinst-build-engine --fp32 --keep-onnx model.inlined.onnx`): AutoCast does
not look into them. `benchmarks/precision.py` then measures both.
"""

import argparse
import time

import onnx
from modelopt.onnx.autocast import convert_to_mixed_precision


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert an inlined ONNX file to float16 with AutoCast.")
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--calibration", help="npz with images and image_sizes, for the magnitudes of activations")
    arguments = parser.parse_args()
    started = time.perf_counter()
    proto = convert_to_mixed_precision(
        arguments.source, low_precision_type="fp16", keep_io_types=True, calibration_data=arguments.calibration
    )
    onnx.save(proto, arguments.target)
    print(f"{arguments.target}: {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
