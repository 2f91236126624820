"""ONNX -> plan, with the builder of TensorRT for RTX, which needs no GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx.inliner

from condinst_deploy.errors import EngineError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """Shapes that one optimization profile covers, by input name."""

    minimum: Mapping[str, Shape]
    optimum: Mapping[str, Shape]
    maximum: Mapping[str, Shape]


def image_profile(minimum: Shape, optimum: Shape, maximum: Shape) -> Profile:
    """The profile of an exported file from shapes `(B, 3, H, W)` of its images."""
    parts = ({"images": shape, "image_sizes": (shape[0], 2)} for shape in (minimum, optimum, maximum))
    return Profile(*parts)


def plan_from_onnx(proto: onnx.ModelProto, profiles: Sequence[Profile], capabilities: Sequence[str] = ("86",)) -> bytes:
    """Build a plan ahead of time.

    The bodies of the special operations are inlined first: the parser can mis-wire local functions.

    Args:
        proto: a file written by condinst-export.
        profiles: at least one, for a file with dynamic shapes.
        capabilities: compute capabilities of the GPUs that the plan is for, for example "86" and "120".

    Raises:
        EngineError: the builder is missing, refuses a node, or cannot build.
    """
    try:
        import tensorrt_rtx as trt
    except ImportError as e:
        raise EngineError("TensorRT for RTX is not installed: pip install '.[rtx]' in the repository") from e
    logger = _Log(trt).logger
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    inlined = onnx.inliner.inline_local_functions(proto)
    if not parser.parse(inlined.SerializeToString()) or network.num_layers == 0:
        problems = [parser.get_error(i) for i in range(parser.num_errors)]
        lines = [f"{problem.node_name()} ({problem.node_operator()}): {problem.desc()}" for problem in problems]
        raise EngineError("the parser refuses the graph: " + ("; ".join(lines) or "it has no layers"))
    config = builder.create_builder_config()
    for profile in profiles:
        config.add_optimization_profile(_optimization_profile(builder, profile))
    config.num_compute_capabilities = len(capabilities)
    for i, capability in enumerate(capabilities):
        config.set_compute_capability(_capability(trt, capability), i)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError("the builder could not build the engine: " + "; ".join(_Log.errors(logger)))
    return bytes(plan)


def _optimization_profile(builder: Any, profile: Profile) -> Any:
    made = builder.create_optimization_profile()
    for name, shape in profile.minimum.items():
        made.set_shape(name, shape, profile.optimum[name], profile.maximum[name])
    return made


def _capability(trt: Any, capability: str) -> Any:
    known = getattr(trt.ComputeCapability, f"SM{capability}", None)
    if known is None:
        raise EngineError(f"compute capability {capability!r} is not one that this builder can target")
    return known


class _Log:
    """A builder's logger that keeps the errors, for the message of the exception."""

    def __init__(self, trt: Any) -> None:
        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.messages: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    self.messages.append(message)

        self.logger = Logger()

    @staticmethod
    def errors(logger: Any) -> list[str]:
        """What the builder said went wrong."""
        return list(logger.messages) or ["no reason was given"]
