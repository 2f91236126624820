"""Serve a model on this machine: MODEL=model.onnx python examples/serve.py (pip install fastapi uvicorn).

curl --data-binary @street.jpg http://127.0.0.1:8000/predict
"""

import os
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool

from condinst_deploy import EncodedImage, ImageError, Predictor

LARGEST_BODY = 20_000_000  # bytes


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with Predictor(os.environ["MODEL"]) as app.state.predictor:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(request: Request) -> list[dict[str, Any]]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise HTTPException(413, f"the image has more than {LARGEST_BODY} bytes")
    try:
        (detections,) = await run_in_threadpool(app.state.predictor, EncodedImage("body", bytes(body)))
    except ImageError as e:
        raise HTTPException(422, f"not an image that can be read: {e}") from e
    entries: list[dict[str, Any]] = detections.to_coco(image_id=0)
    return entries


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.parse_args()
    if "MODEL" not in os.environ:
        parser.error("the environment variable MODEL names no model")
    uvicorn.run(app, host="127.0.0.1", port=8000)
