"""The Dockerfiles and the compose file, without a docker engine: no image was built or started by these tests."""

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from condinst_deploy.cli.client import main
from condinst_deploy.serving.triton.guide import CONTAINER
from tests.support.fake_server import encoded_answer, fake_server
from tests.support.models import SLIM, manifest_of

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker"
FILES = sorted(FOLDER.glob("*.Dockerfile"))
KEYWORDS = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "CMD", "ENTRYPOINT"}
HADOLINT = shutil.which("hadolint") or str(ROOT / "build/hadolint/bin/hadolint")


def instructions(path: Path) -> list[tuple[str, str]]:
    """Keyword and arguments of each instruction; continued lines are joined, comments are left out."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.strip().split(maxsplit=1) for line in joined.splitlines()]
    return [(keyword, arguments) for keyword, arguments in pairs]


def arguments_of(path: Path, keyword: str) -> list[str]:
    return [arguments for name, arguments in instructions(path) if name == keyword]


def compose() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    return services


def in_the_context(path: str) -> bool:
    """Whether `.dockerignore` lets a path through."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    return any(path == entry or path.startswith(f"{entry}/") for entry in kept)


def test_there_are_both_images() -> None:
    assert [path.name for path in FILES] == ["engines.Dockerfile", "serving.Dockerfile"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_image_is_nvidias_by_tag(path: Path) -> None:
    assert {name for name, _ in instructions(path)} <= KEYWORDS
    (tag,) = arguments_of(path, "ARG")
    assert re.fullmatch(r"[A-Z]+=\d\d\.\d\d", tag)
    images = arguments_of(path, "FROM")
    assert len(images) == 2
    for image in images:
        assert re.match(rf"nvcr\.io/nvidia/\w+:\${{{tag.partition('=')[0]}}}-py3( AS wheel)?$", image)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_everything_that_is_copied_is_there(path: Path) -> None:
    sources = [word for copied in arguments_of(path, "COPY") for word in copied.split()[:-1]]
    mounted = re.findall(r"--mount=type=bind,source=([\w.]+),", path.read_text())
    assert mounted == ["constraints.txt"]
    for source in (*sources, *mounted):
        assert (ROOT / source).exists(), source
        assert in_the_context(source), source


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_runs_as_root_and_health_is_decided(path: Path) -> None:
    names = [name for name, _ in instructions(path)]
    (user,) = arguments_of(path, "USER")
    assert int(user) > 0  # a number: whoever starts the image can see that it is not root
    assert f"useradd --create-home --uid {user}" in " ".join(arguments_of(path, "RUN"))
    assert names.index("USER") < names.index("CMD")
    assert "RUN" not in names[names.index("USER") :]
    assert names.count("HEALTHCHECK") == 1


def test_the_health_check_is_a_command_that_the_client_understands() -> None:
    (check,) = arguments_of(FOLDER / "serving.Dockerfile", "HEALTHCHECK")
    name, *arguments = re.findall(r'"([^"]+)"', check)
    assert name == "condinst-client"
    with fake_server(lambda *_: encoded_answer({}), manifest_of(SLIM)) as server:
        arguments[0] = server.url
        assert CliRunner().invoke(main, arguments).exit_code == 0


def test_the_package_can_be_built_from_what_is_copied(tmp_path: Path) -> None:
    sources = [word for copied in arguments_of(FILES[1], "COPY") for word in copied.split()[:-1]]
    archive = tmp_path / "context.tar"
    with tarfile.open(archive, "w") as tar:
        for source in sources:
            tar.add(ROOT / source, source)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "source", filter="data")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), "source"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(tmp_path.glob("condinst_deploy-*.whl"))) == 1


def test_the_server_of_the_image_is_started_as_the_guide_starts_it() -> None:
    (command,) = arguments_of(FOLDER / "serving.Dockerfile", "CMD")
    flags = re.findall(r'"(--[^"]+)"', command)
    guide = (ROOT / "docs" / "serving.md").read_text().replace("'", "")
    for flag in flags:
        if not flag.startswith("--model-repository"):
            assert flag in guide, flag


def test_the_compose_file_serves_this_machine_only() -> None:
    services = compose()
    for name, service in services.items():
        build = service["build"]
        assert (FOLDER / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file(), name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
    assert all(str(port).startswith("127.0.0.1:") for port in services["serving"]["ports"])
    exposed = arguments_of(FOLDER / "serving.Dockerfile", "EXPOSE")[0].split()
    assert [port.rpartition(":")[2] for port in services["serving"]["ports"]] == exposed
    assert services["serving"]["volumes"][0].endswith(":/models:ro")


def test_docker_waits_longer_than_the_server_does() -> None:
    seconds = int(compose()["serving"]["stop_grace_period"].removesuffix("s"))
    (command,) = arguments_of(FOLDER / "serving.Dockerfile", "CMD")
    found = re.search(r"--exit-timeout-secs=(\d+)", command)
    assert found is not None
    assert seconds > int(found[1])


def test_the_container_of_the_repositorys_guide_is_the_images() -> None:
    (tag,) = arguments_of(FOLDER / "serving.Dockerfile", "ARG")
    assert f"nvcr.io/nvidia/tritonserver:{tag.partition('=')[2]}-py3" == CONTAINER


@pytest.mark.skipif(not Path(HADOLINT).exists(), reason="hadolint is not installed: make lint-docker")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    done = subprocess.run([HADOLINT, "--no-color", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
