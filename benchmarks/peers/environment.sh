#!/usr/bin/env bash
# Makes the environment of the peers in a folder, beside the project's own .venv, whose libraries it shares.
#
#     bash benchmarks/peers/environment.sh [FOLDER]     # default: .peers
#     WHEEL=mmcv-2.1.0-....whl bash benchmarks/peers/environment.sh    # with an mmcv that was compiled before
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

folder=$(realpath -m "${1:-.peers}")
project=.venv/bin/python
pip=("$folder/bin/python" -m pip --disable-pip-version-check --quiet)

[ -x "$project" ] || { echo "error: $project is not there; run make env first" >&2; exit 1; }
command -v c++ > /dev/null || { echo "error: no C++ compiler on the PATH; mmcv's operators need one" >&2; exit 1; }

echo "Making $folder: mmcv compiles 77 files; allow half an hour on two cores"
"$project" -m venv "$folder"
# mmcv's setup.py imports pkg_resources, which setuptools no longer has
"${pip[@]}" install 'setuptools<70' wheel ninja
"${pip[@]}" install --no-deps -r benchmarks/peers/requirements.txt
# the same PyTorch, numpy and ONNX Runtime as the project's; what this environment has itself comes first
site='import sysconfig; print(sysconfig.get_path("purelib"))'
"$project" -c "$site" > "$("$folder/bin/python" -c "$site")/project.pth"

if [ -z "${WHEEL:-}" ]; then
    build=$folder/build
    mkdir -p "$build"
    "${pip[@]}" download --no-deps --no-binary mmcv --no-build-isolation --dest "$build" mmcv==2.1.0
    tar -xzf "$build/mmcv-2.1.0.tar.gz" -C "$build"
    # PyTorch's headers are C++20 now
    sed -i 's/-std=c++17/-std=c++20/' "$build/mmcv-2.1.0/setup.py"
    WHEEL=$build/mmcv-2.1.0
fi
export PATH="$folder/bin:$PATH"  # ninja
MMCV_WITH_OPS=1 CFLAGS="-g0 ${CFLAGS:-}" "${pip[@]}" install --no-deps --no-build-isolation "$WHEEL"

PYTHONPATH=. CUDA_VISIBLE_DEVICES="" "$folder/bin/python" -m benchmarks.peers.measure versions
