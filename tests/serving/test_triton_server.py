"""A real tritonserver on this machine's CPU: answers, batches, refusals, a killed process, an orderly end."""

import json
import os
import signal
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from condinst_deploy import ConfigError, ImageError, Predictor
from condinst_deploy.serving import Client
from condinst_deploy.serving.client.health import check_health
from condinst_deploy.serving.client.transport import ServerUnavailable
from condinst_deploy.serving.protocol import BOXES, MASKS, MODEL, RequestOptions
from condinst_deploy.serving.triton.limits import Limits
from condinst_deploy.serving.triton.repository import write_repository
from condinst_deploy.serving.triton.repository_settings import Layout, RepositoryOptions
from tests.support.images import png
from tests.support.models import noise_image
from tests.support.predictions import same
from tests.support.triton_server import ENVIRONMENT, ROOT, Server, missing, running

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

SIZES = ((96, 128), (64, 64), (128, 96), (96, 128))
LIMITS = Limits(image_bytes=300_000, image_pixels=400 * 400)


@pytest.fixture(scope="module", params=["single", "ensemble"])
def layout(request: pytest.FixtureRequest) -> Layout:
    chosen: Layout = request.param
    return chosen


@pytest.fixture(scope="module")
def server(layout: Layout, slim_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(layout)
    options = RepositoryOptions(layout=layout, max_batch=4, delay_ms=50, limits=LIMITS)
    with running(write_repository(slim_onnx, folder / "repo", options), folder) as started:
        yield started


@pytest.fixture(scope="module")
def predictor(slim_onnx: Path) -> Iterator[Predictor]:
    with Predictor(slim_onnx, device="cpu") as loaded:
        yield loaded


def declaring(width: int, height: int) -> bytes:
    """A small PNG whose header declares another size."""
    content, (start, end) = bytearray(png(0, 8, 8)), (12, 29)  # of the header's name and fields
    content[16:24] = struct.pack(">II", width, height)
    content[end : end + 4] = struct.pack(">I", zlib.crc32(content[start:end]))
    return bytes(content)


@pytest.mark.parametrize("concurrency", [1, 16])
def test_each_answer_belongs_to_its_request(server: Server, predictor: Predictor, concurrency: int) -> None:
    images = [noise_image(seed, *SIZES[seed % len(SIZES)]) for seed in range(24)]
    with Client(server.http, in_flight=concurrency) as client:
        found = client(images)
    for one, wanted in zip(found, predictor(images), strict=True):
        assert len(wanted) > 0
        assert same(one, wanted)
        assert one.class_names == predictor.class_names


def test_grpc_gives_the_same(server: Server, predictor: Predictor, tmp_path: Path) -> None:
    for seed, size in enumerate(SIZES):
        (tmp_path / f"{seed}.png").write_bytes(png(seed, *size))
    paths = sorted(tmp_path.glob("*.png"))
    # its libraries are in the server's environment: they want an older protobuf than ours
    code = "from condinst_deploy.cli.client import main; main()"
    command = [
        str(ENVIRONMENT / "bin/python"),
        "-c",
        code,
        server.grpc,
        *map(str, paths),
        "--json",
        "--in-flight",
        "16",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    wanted = [found.to_coco(number) for number, found in enumerate(predictor(paths), 1)]
    assert [line["detections"] for line in lines] == wanted


def test_images_of_one_shape_share_a_batch(server: Server) -> None:
    before = batches(server)
    with Client(server.http, in_flight=12) as client:
        client([noise_image(seed, 96, 128) for seed in range(36)])
    images, runs = (after - start for after, start in zip(batches(server), before, strict=True))
    assert images == 36
    assert runs < 30  # most requests were merged with another


def batches(server: Server) -> tuple[float, float]:
    """Images and executions of the model that clients ask, so far."""
    lines = [line.split() for line in server.metrics().splitlines() if f'model="{MODEL}"' in line]
    values = {name.partition("{")[0]: float(value) for name, value in lines}
    return values.get("nv_inference_count", 0.0), values.get("nv_inference_exec_count", 0.0)


def test_our_stages_are_among_the_servers_metrics(server: Server) -> None:
    with Client(server.http) as client:
        client([noise_image(0, 64, 64)])
    stages = [line for line in server.metrics().splitlines() if line.startswith("condinst_stage_seconds_total")]
    assert {part for line in stages for part in line.split('"')} >= {"decode", "resize", "network", "postprocess"}
    assert all(float(line.split()[-1]) > 0 for line in stages if '"network"' in line)


def test_the_log_has_one_line_of_json_for_each_request(server: Server) -> None:
    with Client(server.http) as client:
        client([noise_image(0, 64, 64)])
    lines = [json.loads(line) for line in server.log.read_text(errors="replace").splitlines() if line.startswith("{")]
    assert {"model", "batch", "bytes", "size", "instances", "ms"} <= lines[-1].keys()
    assert lines[-1]["size"] == [64, 64]


def test_what_is_wrong_with_a_request_is_said_and_the_server_stays_healthy(server: Server) -> None:
    bad: dict[str, bytes] = {
        "the image has 0 bytes": b"",
        "not an image in a known format": b"some text",
        "truncated or damaged": png(0, 96, 128)[:3000],
        "this server takes at most 300000": bytes(300_001),
        "30000x30000 pixels|too large to be decoded safely": declaring(30_000, 30_000),
    }
    with Client(server.http) as client:
        for reason, content in bad.items():
            with pytest.raises(ConfigError, match=reason):
                client.transport.infer(MODEL, content, {}, [BOXES])
            assert check_health(client.transport, repair=False).answers
        for parameters, reason in (
            ({"colour": "red"}, "unknown parameter 'colour'"),
            ({"score_threshold": "high"}, "expected a number"),
            ({"classes": "unicorn"}, "has no class 'unicorn'"),
            ({"masks": "png"}, "expected one of rle, dense, none"),
        ):
            with pytest.raises(ConfigError, match=reason):
                client.transport.infer(MODEL, png(0, 64, 64), parameters, [BOXES])
        with pytest.raises(ConfigError):
            client.transport.infer("no_such_model", png(0, 64, 64), {}, [BOXES])
        found = list(client.stream([noise_image(0, 64, 64), b"text", noise_image(1, 64, 64)]))
        assert isinstance(found[1].error, ImageError)
        assert [one.detections is not None for one in found] == [True, False, True]


def test_two_images_in_one_request_and_a_wrong_type_are_refused(server: Server) -> None:
    import http.client

    bodies = {
        '{"inputs":[{"name":"IMAGE","datatype":"BYTES","shape":[2,1],"data":["a","b"]}]}': "one image a request",
        '{"inputs":[{"name":"IMAGE","datatype":"FP32","shape":[1,1],"data":[1.0]}]}': "IMAGE",
    }
    for body, reason in bodies.items():
        connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=30)
        connection.request("POST", f"/v2/models/{MODEL}/infer", body)
        answer = connection.getresponse()
        assert answer.status == 400, body
        assert reason in answer.read().decode()
        connection.close()


def test_options_reach_the_model(server: Server, predictor: Predictor) -> None:
    image, (own,) = noise_image(0, 96, 128), predictor(noise_image(0, 96, 128))
    threshold = max(0.05, float(own.scores[7]))  # a request can only raise the model's own
    options = RequestOptions(threshold, (own.names[0],), 3)
    with Client(server.http, options=options) as client:
        (found,) = client([image])
    chosen = Predictor(predictor.backend, score_threshold=threshold, classes=own.names[0], max_detections=3)
    assert same(found, chosen(image)[0])
    with Client(server.http, options=RequestOptions(score_threshold=1.0)) as client:
        assert len(client([image])[0]) == 0


def test_dense_masks_on_request(server: Server, predictor: Predictor) -> None:
    with Client(server.http) as client:
        reply = client.transport.infer(MODEL, png(0, 96, 128), {"masks": "dense", "max_detections": 2}, [BOXES, MASKS])
    assert np.array_equal(reply.arrays[MASKS][0], np.asarray(predictor(noise_image(0, 96, 128))[0].masks)[:2])


def test_a_killed_process_is_found_and_its_model_loaded_again(server: Server) -> None:
    with Client(server.http, retries=0) as client:
        assert check_health(client.transport).reloaded == ()
        for pid in server.stubs():
            os.kill(pid, signal.SIGKILL)
        found = check_health(client.transport)
        assert MODEL in found.reloaded
        assert found.answers
        assert found.reason  # what the first canary met
        assert len(client([noise_image(0, 64, 64)])) == 1


def test_a_full_queue_is_said_at_once_and_clients_try_again(slim_onnx: Path, layout: Layout, tmp_path: Path) -> None:
    options = RepositoryOptions(layout=layout, max_batch=1, delay_ms=0, limits=Limits(queued_requests=1))
    images = [noise_image(seed, 96, 128) for seed in range(24)]
    with running(write_repository(slim_onnx, tmp_path / "repo", options), tmp_path) as server:
        with Client(server.http, in_flight=12, retries=0) as client, pytest.raises(ServerUnavailable, match="busy"):
            client(images)
        with Client(server.http, in_flight=12, retries=100, pauses=(0.02, 0.5)) as client:
            assert len(client(images)) == 24


def test_drain_then_stop_loses_nothing(slim_onnx: Path, layout: Layout, tmp_path: Path) -> None:
    options = RepositoryOptions(layout=layout, max_batch=4)
    with running(write_repository(slim_onnx, tmp_path / "repo", options), tmp_path) as server:
        with Client(server.http, in_flight=8, retries=0) as client, ThreadPoolExecutor(1) as thread:
            sent = thread.submit(lambda: list(client.stream(noise_image(seed, 96, 128) for seed in range(16))))
            assert [one.error for one in sent.result()] == [None] * 16  # drained: every answer is here
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


def test_the_single_layout_answers_what_is_under_way_at_sigterm(
    slim_onnx: Path, layout: Layout, tmp_path: Path
) -> None:
    if layout != "single":
        pytest.skip("the server does not wait for requests between two models; the README beside them says so")
    options = RepositoryOptions(max_batch=4)
    with running(write_repository(slim_onnx, tmp_path / "repo", options), tmp_path) as server:
        with Client(server.http, in_flight=8, retries=0) as client, ThreadPoolExecutor(1) as thread:
            assert client.manifest.class_names
            sent = thread.submit(lambda: list(client.stream(noise_image(seed, 96, 128) for seed in range(8))))
            while batches(server)[0] < 1:
                time.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            found = sent.result()
        assert sum(one.detections is not None for one in found) == 8
