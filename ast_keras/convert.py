"""Translates weights between this package and others.

    python -m ast_keras.convert --source FILE_OR_DIR --output DIR [--to keras|authors|transformers]

Every tensor is listed with what became of it; what was written is read again and compared.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

from absl import app, flags

from ast_keras.commands.runner import run_command
from ast_keras.errors import WeightsError
from ast_keras.labels import LabelSet

_FITTING = (
    "strides",
    "num_frames",
    "num_mel_bins",
    "patch_size",
    "rgb_reduction",
    "position_resize",
)


def main(argv: list[str]) -> int:
    values = flags.FLAGS
    if len(argv) > 1 or values.source is None or values.output is None:
        raise WeightsError("Say what to convert, and where to: --source FILE_OR_DIR --output DIR")
    output = pathlib.Path(values.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise WeightsError(f"The output must be a new folder. Received: --output {output}")
    from ast_keras.presets.loading import read_preset
    from ast_keras.weights.build import adapt, build_classifier, choose_head

    fitting = _fitting(values)
    reading = {"format": values.format, "num_heads": values.num_heads}
    source, parts = read_preset(values.source, reading, fitting)
    labels = LabelSet.from_file(values.labels) if values.labels else None
    head = choose_head(source, values.num_classes, labels)
    model = build_classifier(source, values.num_classes, labels, **{**parts, **fitting})
    steps = {key: fitting[key] for key in ("rgb_reduction", "position_resize") if key in fitting}
    adapted = adapt(source, model.backbone.grid, model.backbone.patch_size, **steps)
    print(f"{values.source}: {source.weights.variant}, {source.description}\n")
    print(_table(source, model, head, adapted.changes))
    for line in _write(model, output, values.to):
        print(f"note: {line}")
    _check(model, output)
    print(f"\nwritten and read again, equal to the bit: {output}")
    return 0


def _fitting(values: Any) -> dict[str, Any]:
    fitting = {name: getattr(values, name) for name in _FITTING}
    for name in ("strides", "patch_size"):
        pair = fitting[name]
        if pair is not None:
            if len(pair) != 2 or not all(part.isdecimal() and int(part) for part in pair):
                raise WeightsError(f"--{name} takes MEL,TIME, as in 10,10. Received: {pair}")
            fitting[name] = (int(pair[0]), int(pair[1]))
    return {name: value for name, value in fitting.items() if value is not None}


def _table(source: Any, model: Any, head: Any, changes: dict[str, str]) -> str:
    """Returns a line for each tensor: its new name and shape, what it was made of, and how."""
    from ast_keras.weights.assign import layouts, weights_by_path

    weights = weights_by_path(model)
    rows = [("weight here", "shape", "tensor there", "what became of it")]
    unused = dict(source.weights.unused)
    for path, layout in layouts(model.backbone).items():
        shape = " x ".join(map(str, weights[path].shape))
        origins = [n for name in layout.names for n in source.weights.origins.get(name, ())]
        change = ", ".join(changes[name] for name in layout.names if name in changes)
        if path.startswith("head") and not head.tensors:
            unused |= dict.fromkeys(origins, "the head is fresh")
            origins, change = [], "fresh"
        elif path.startswith("head/") and head.moved:
            change = "in the order of the labels"
        first, *others = origins or [""]
        rows.append((path, shape, first, change or "as it was"))
        rows += [("", "", origin, "") for origin in others]  # put together in one weight
    rows += [("", "", name, f"not used: {reason}") for name, reason in unused.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]])
        for row in rows
    )


def _write(model: Any, output: pathlib.Path, to: str) -> list[str]:
    from ast_keras.presets.loading import save_to_preset
    from ast_keras.weights.export import export_weights

    if to != "keras":
        return export_weights(model, output, to)
    save_to_preset(model, output)
    return []


def _check(model: Any, output: pathlib.Path) -> None:
    """Reads the written files as a user would and compares every number."""
    import numpy as np

    from ast_keras.presets.loading import read_preset
    from ast_keras.weights.assign import canonical_tensors

    backbone = model.backbone
    size = {name: getattr(backbone, name) for name in ("strides", "num_frames", "num_mel_bins")}
    again, _ = read_preset(str(output), {"num_heads": backbone.num_heads}, size)
    for name, tensor in canonical_tensors(model).items():
        if not np.array_equal(tensor, again.tensors[name], equal_nan=True):
            raise WeightsError(f"What was written reads back otherwise: {name} in {output}")


def run() -> None:
    """Defines the flags and runs the command; also what the installed program calls."""
    flags.DEFINE_string("source", None, "File or folder of weights, saved model, or preset name.")
    flags.DEFINE_string("output", None, "New folder to write.")
    flags.DEFINE_enum("to", "keras", ["keras", "authors", "transformers"], "What to write.")
    flags.DEFINE_string("format", None, "What the source is, where its names do not show it.")
    flags.DEFINE_integer("num_heads", None, "Attention heads, if not 64 wide.", lower_bound=1)
    flags.DEFINE_integer("num_classes", None, "Give the model a fresh head.", lower_bound=1)
    flags.DEFINE_string("labels", None, "File of class names, one a line or a label CSV.")
    flags.DEFINE_list("strides", None, "MEL,TIME between patches.")
    flags.DEFINE_integer("num_frames", None, "Frames of the spectrogram.", lower_bound=1)
    flags.DEFINE_integer("num_mel_bins", None, "Bins of the spectrogram.", lower_bound=1)
    flags.DEFINE_list("patch_size", None, "MEL,TIME of a patch.")
    flags.DEFINE_enum("rgb_reduction", None, ["sum", "mean"], "Colour kernels to one channel.")
    flags.DEFINE_alias("rgb", "rgb_reduction")
    flags.DEFINE_enum(
        "position_resize", None, ["bilinear", "nearest", "reinit"], "Positions to a grid."
    )
    flags.DEFINE_alias("position", "position_resize")
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()
