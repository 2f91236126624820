# Builds engines for the GPU that it runs on, with the TensorRT of the server of the same tag (serving.Dockerfile):
#   docker build -f docker/engines.Dockerfile -t condinst-engines .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" condinst-engines --onnx model.onnx --flavour tensorrt --fp16
ARG TENSORRT=26.10

FROM nvcr.io/nvidia/tensorrt:${TENSORRT}-py3 AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY condinst_deploy condinst_deploy
COPY export export
COPY engines engines
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM nvcr.io/nvidia/tensorrt:${TENSORRT}-py3
# the image's own TensorRT stays: a plan runs only in the version that built it
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    grep -v -i '^tensorrt' /constraints.txt > /tmp/constraints.txt \
    && python3 -m pip install --no-cache-dir -c /tmp/constraints.txt "$(ls /wheels/condinst_deploy-*.whl)[engine,export,gpu]" \
    && rm /tmp/constraints.txt \
    && useradd --create-home --uid 10001 condinst

USER 10001
WORKDIR /work
# it runs one command and ends
HEALTHCHECK NONE
ENTRYPOINT ["condinst-build-engine"]
CMD ["--help"]
