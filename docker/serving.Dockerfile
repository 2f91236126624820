# NVIDIA's Triton server with this package beside it. Build it from the repository's root:
#   docker build -f docker/serving.Dockerfile -t condinst-serving .
ARG TRITON=26.10

FROM nvcr.io/nvidia/tritonserver:${TRITON}-py3 AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY condinst_deploy condinst_deploy
COPY export export
COPY engines engines
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM nvcr.io/nvidia/tritonserver:${TRITON}-py3
# the server's Python backend was built for the image's own NumPy, which stays
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    grep -v '^numpy==' /constraints.txt > /tmp/constraints.txt \
    && python3 -m pip install --no-cache-dir -c /tmp/constraints.txt "$(ls /wheels/condinst_deploy-*.whl)[engine,gpu]" \
    && rm /tmp/constraints.txt \
    && useradd --create-home --uid 10001 condinst

USER 10001
WORKDIR /home/condinst
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
# one inference; if it fails, the models are loaded again (a killed model process never comes back by itself)
HEALTHCHECK --interval=30s --timeout=30s --start-period=180s --retries=3 \
    CMD ["condinst-client", "http://127.0.0.1:8000", "--health", "--timeout", "20", "--retries", "0"]
CMD ["tritonserver", "--model-repository=/models", "--model-control-mode=explicit", "--load-model=*", "--exit-timeout-secs=60"]
