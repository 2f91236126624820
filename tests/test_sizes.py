"""Files, functions and parameter lists of the product have sizes that a person reads in one sitting."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = [
    path for folder in ("condinst_deploy", "export", "engines") for path in sorted((ROOT / folder).rglob("*.py"))
]

FILES = [
    path
    for folder in ("condinst_deploy", "export", "engines", "tests", "benchmarks", "demo", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "node_modules" not in path.parts
]

MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION, MOST_PARAMETERS = 400, 40, 6

LONG_FUNCTIONS = {
    # text of ONNX functions
    "select_instances_function",
    "dynamic_mask_head_function",
    # kernels in the Triton language, where code is not divided easily
    "mask_head_half",
    "changes_kernel",
    "select_instances_kernel",
}

MANY_PARAMETERS = {
    # one parameter for each option of a command
    *("batch", "benchmark", "build_engine", "client", "evaluate", "export", "predict", "train", "triton_repo"),
    # pointers and constants of kernels in the Triton language, and of the plugins that launch them
    *("mask_head_float32", "mask_head_half", "resize_kernel", "probabilities_kernel", "changes_kernel"),
    *("select_instances_kernel", "slice_begin", "compacted", "overlap", "kernel"),
    # requests of another process, by name
    "Worker.load",
    # all but two by name only
    "CocoDataset.__init__",
    "Client.__init__",
}


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods of a module, with their names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{one.name}", one) for one in node.body if isinstance(one, ast.FunctionDef))
        elif isinstance(node, ast.FunctionDef) and not any(argument.arg == "self" for argument in node.args.args):
            yield node.name, node


def lines_of(function: ast.FunctionDef) -> int:
    """Lines of the body, without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1


def parameters_of(function: ast.FunctionDef) -> int:
    """Number of parameters, without `self` and `cls`."""
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in every)


def test_a_file_is_read_in_one_sitting() -> None:
    sizes = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in FILES}
    assert {name for name, size in sizes.items() if size > MOST_LINES_OF_A_FILE} == set()


def test_functions_are_short() -> None:
    found = {name for path in SOURCES for name, node in functions(path) if lines_of(node) > MOST_LINES_OF_A_FUNCTION}
    assert found == LONG_FUNCTIONS


def test_options_travel_in_one_dataclass() -> None:
    found = {name for path in SOURCES for name, node in functions(path) if parameters_of(node) > MOST_PARAMETERS}
    assert found == MANY_PARAMETERS
