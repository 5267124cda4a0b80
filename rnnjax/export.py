"""Writes a trained model for other programs: ``python -m rnnjax.export DIR --to FORMAT --out PATH``."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rnnjax.cells import Cell, Project, ProjectParams
from rnnjax.commands import end, exit_code, require_packages, run_parser
from rnnjax.errors import ConfigError

_FORMATS = {
    "stablehlo": "a folder of programs that JAX alone runs",
    "safetensors": "a file of all parameters by name",
    "torch": "a state_dict that torch.load reads",
    "keras": "a .weights.h5 file",
    "onnx": "an .onnx file",
}


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name; prints the path of every file that it wrote.

    Raises:
      ConfigError: if DIR holds no run, its model cannot be expressed in the format, a package is not installed, or PATH
        cannot be written.
      CheckpointError: if no checkpoint can be read.
    """
    options = parse(arguments)
    require_packages()
    from rnnjax.training.directory.opened import open_run

    run = open_run(options.directory, options.checkpoint, options.data, trusted=options.trust)
    out = Path(options.out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        written = _writer(options.to)(run, out)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written ({error.strerror}); choose another") from None
    except (ValueError, TypeError, ModuleNotFoundError) as error:
        raise ConfigError(f"{options.directory} cannot be written as {options.to}: {error}") from None
    for path in written:
        print(path)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    parser = run_parser("export", "Writes a trained model for other programs.")
    formats = "; ".join(f"{name}: {what}" for name, what in _FORMATS.items())
    parser.add_argument("--to", required=True, choices=list(_FORMATS), help=formats)
    parser.add_argument("--out", required=True, metavar="PATH", help="file or folder to write")
    return parser.parse_args(arguments)


class Recurrent(NamedTuple):
    """The recurrent layer of a model, with the dense layer behind it where there is nothing else.

    Attributes:
      cell: its cell.
      params: its parameters.
      others: the names of what else the model is made of.
    """

    cell: Any
    params: Any
    others: tuple[str, ...]


def recurrent_layer(cell: Cell | None, params: Any) -> Recurrent:
    """Returns the recurrent layer in the parameters of a model.

    A model of that layer and a dense layer is a `Project`.

    Args:
      cell: the model's cell; None where it has none.
      params: the model's parameters, as Flax has them.

    Raises:
      ValueError: if there is not one such layer.
    """
    found = [] if cell is None else list(_parts(cell, params, ()))
    if cell is None or len(found) != 1:
        raise ValueError(
            f"its model has {len(found)} recurrent layers with the parameters of its cell, and one is needed; "
            "--to safetensors writes all parameters of any model"
        )
    (path, values), modules = found[0], _modules(params)
    others = tuple(name for name in modules if name not in path)
    dense = modules[others[0]] if len(others) == 1 else None
    if not isinstance(dense, Mapping) or dense.keys() != {"kernel", "bias"} or len(dense["kernel"]) != cell.output_size:
        return Recurrent(cell, values, others)
    kernel, bias = dense["kernel"], dense["bias"]
    return Recurrent(Project(cell, kernel.shape[1]), ProjectParams(values, kernel, bias), ())


def _modules(params: Any) -> Mapping[str, Any]:
    """Returns the parameters of each module of a model by its name."""
    return params.get("params", params) if isinstance(params, Mapping) else {}


def _parts(cell: Any, params: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields each part of a model's parameters that are a cell's own, with the names above it."""
    from rnnjax.interop.sizes import input_size_of

    try:
        input_size_of(cell, params)
        yield path, params
    except ValueError:
        if isinstance(params, Mapping):
            for name, part in params.items():
                yield from _parts(cell, part, (*path, name))


def _writer(to: str) -> Callable[[Any, Path], list[Path]]:
    """Returns the function that writes an opened run in a format; it returns the paths of the files."""
    writers = {"stablehlo": _write_stablehlo, "safetensors": _write_safetensors, "onnx": _write_onnx}
    return writers.get(to) or functools.partial(_write_weights, to)


def _write_safetensors(run: Any, out: Path) -> list[Path]:
    from rnnjax.interop import to_arrays, write_safetensors

    write_safetensors(out, to_arrays(run.params), {"task": run.config.task, "cell": repr(run.task.cell)})
    return [out]


def _write_weights(to: str, run: Any, out: Path) -> list[Path]:
    from rnnjax.interop import to_keras, to_torch, write_keras, write_torch

    cell, params, others = recurrent_layer(run.task.cell, run.params)
    convert, write = {"torch": (to_torch, write_torch), "keras": (to_keras, write_keras)}[to]
    write(out, convert(cell, params))
    _say_what_is_left_out(others)
    return [out]


def _write_onnx(run: Any, out: Path) -> list[Path]:
    from rnnjax.interop import to_onnx
    from rnnjax.interop.safetensors import write_bytes

    cell, params, others = recurrent_layer(run.task.cell, run.params)
    write_bytes(out, to_onnx(cell, params).SerializeToString())
    _say_what_is_left_out(others)
    return [out]


def _write_stablehlo(run: Any, out: Path) -> list[Path]:
    """Writes what the model predicts, and its recurrent layer with the state that it starts from."""
    from rnnjax.interop.safetensors import write_bytes

    programs = _programs(run)
    out.mkdir(exist_ok=True)
    paths = [out / f"{name}.stablehlo" for name in programs]
    for path, program in zip(paths, programs.values()):
        write_bytes(path, program.serialize())
    signature = out / "signature.json"
    described = {name: _signature(program) for name, program in programs.items()}
    signature.write_text(json.dumps(described, indent=2) + "\n")
    return [*paths, signature]


def _signature(program: Any) -> dict[str, Any]:
    """Returns the arguments and results of a program by their paths, such as ``{"2.h": "float32[B,8]"}``."""
    from rnnjax.leaf_paths import by_path

    args, _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    results = jax.tree.unflatten(program.out_tree, program.out_avals)
    sides = {"arguments": args, "results": results}
    return {side: {name: str(leaf) for name, leaf in by_path(tree).items()} for side, tree in sides.items()}


def _programs(run: Any) -> dict[str, Any]:
    from rnnjax.interop.stablehlo import PLATFORMS, Free, exported, to_stablehlo

    programs, task = {}, run.task
    if task.inputs:
        inputs = {name: Free(tuple(field.shape), field.dtype) for name, field in task.inputs.items()}
        programs["predict"] = exported(lambda inputs: task.predict(run.params, inputs), (inputs,), PLATFORMS)
    try:
        cell, params, _ = recurrent_layer(task.cell, run.params)
    except ValueError:
        if programs:
            return programs
        raise
    unroll, initial_state = to_stablehlo(cell, params)
    return programs | {"unroll": unroll, "initial_state": initial_state}


def _say_what_is_left_out(others: tuple[str, ...]) -> None:
    """Says which parts of a model are not in a file of its recurrent layer."""
    if others:
        print(f"written is the recurrent layer, without {', '.join(others)}", file=sys.stderr)


if __name__ == "__main__":
    end(exit_code(main, sys.argv[1:]))
