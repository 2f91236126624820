"""GPUs that cannot load an engine of a builder, reported before it is built."""

from collections.abc import Iterator
from pathlib import Path

from condinst_engines.build_options import BuildOptions
from condinst_engines.build_recipe import BuildRecipe
from condinst_engines.builder_library import INSTALL, BuilderLibrary

DATA_CENTRE = {"80": "A100 and A30", "90": "H100 and H200", "100": "B200"}
"""Compute capability -> data-centre GPUs that have it."""


def coverage_notes(options: BuildOptions, recipe: BuildRecipe, library: BuilderLibrary) -> Iterator[str]:
    """Yield what a user who has not named the GPUs should know about those that the engine leaves out.

    Full TensorRT builds for the GPU in the machine, and `--sm` names GPUs: there is nothing to say.
    """
    if not library.builds_ahead or options.sm is not None:
        return
    left_out = [f"{gpus} (sm {sm})" for sm, gpus in DATA_CENTRE.items() if sm not in recipe.rtx.sm]
    if not left_out:
        return
    targets = ", ".join(recipe.rtx.sm)
    if options.flavour is None:
        yield f"full TensorRT is not installed here: TensorRT for RTX builds for GPUs of compute capability {targets}"
    if options.flavour is None or _is_for_servers(options):
        remedy = f"for those run this command on such a GPU with --flavour tensorrt ({INSTALL['tensorrt']})"
        yield f"the engine will not load on {', '.join(left_out)}; {remedy}"


def _is_for_servers(options: BuildOptions) -> bool:
    return isinstance(options.recipe, str) and Path(options.recipe).stem == "data_centre"
