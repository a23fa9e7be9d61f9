"""Conversion of weights between this package, the authors' code and transformers."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from ast_keras.errors import WeightsError
from ast_keras.labels import Labels
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.presets import loading
from ast_keras.weights.assign import canonical_tensors, layouts, weights_by_path
from ast_keras.weights.build import adapt, build_classifier
from ast_keras.weights.export import export_weights
from ast_keras.weights.geometry import Geometry
from ast_keras.weights.head import Head, choose_head
from ast_keras.weights.pretrained import PretrainedNetwork


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Weights that are read and fitted to a model, but not yet written.

    Args:
        description: Format and size of the source, in one line.
        table: A line for each tensor: the weight, its shape, the source's tensor, the change.
        model: The model with the weights.
    """

    description: str
    table: str
    model: ASTClassifier

    def write(self, output: pathlib.Path, to: str = "keras") -> list[str]:
        """Writes the weights, reads them back and compares every number.

        Args:
            output: A new or empty folder.
            to: "keras" for a saved model, "authors" or "transformers".

        Returns:
            Differences between the model and what the other implementation will compute.

        Raises:
            WeightsError: If the other implementation has no such network, or if the output does not
                read back with the same numbers.
        """
        notes: list[str] = []
        if to == "keras":
            loading.save_to_preset(self.model, output)
        else:
            notes = export_weights(self.model, output, to)
        _require_same_when_read(self.model, output)
        return notes


def convert_weights(
    source: str,
    hints: loading.FileHints | None = None,
    geometry: Geometry | None = None,
    num_classes: int | None = None,
    labels: Labels | None = None,
) -> Conversion:
    """Reads weights and fits them to a model; `Conversion.write` writes them.

    Args:
        source: A weights file, its folder, the folder of a saved model, or the name of released
            weights.
        hints: Format and number of heads, for files that do not show them.
        geometry: The spectrogram that the weights are fitted to.
        num_classes: Number of classes of a fresh head; None keeps the head.
        labels: The classes (see `choose_head`).

    Returns:
        What was converted, and how.

    Raises:
        WeightsError: If the source cannot be read.
        LabelError: If `num_classes` is not the number of labels.
    """
    geometry = geometry or Geometry()
    preset = loading.read_preset(source, hints, geometry)
    network = preset.network
    head = choose_head(network, num_classes, labels)
    model = build_classifier(
        network, head, geometry, frontend=preset.frontend, augment=preset.augment, name=preset.name
    )
    backbone = model.backbone
    changes = adapt(
        network,
        backbone.grid,
        backbone.patch_size,
        geometry.rgb_reduction,
        geometry.position_resize,
    ).changes
    description = f"{network.weights.variant}, {network.description}"
    return Conversion(description, _table(network, model, head, changes), model)


def _require_same_when_read(model: ASTClassifier, output: pathlib.Path) -> None:
    backbone = model.backbone
    hints = loading.FileHints(num_heads=backbone.num_heads)
    size = Geometry(
        num_frames=backbone.num_frames,
        num_mel_bins=backbone.num_mel_bins,
        strides=backbone.strides,
    )
    found = loading.read_preset(str(output), hints, size).network.tensors
    for name, tensor in canonical_tensors(model).items():
        if not np.array_equal(tensor, found[name], equal_nan=True):
            raise WeightsError(
                f"The written weights read back with other numbers. Received: {name} in {output}"
            )


def _table(
    network: PretrainedNetwork, model: ASTClassifier, head: Head, changes: Mapping[str, str]
) -> str:
    weights = weights_by_path(model)
    rows = [("weight here", "shape", "tensor there", "change")]
    unused = dict(network.weights.unused)
    for path, layout in layouts(model.backbone).items():
        shape = " x ".join(map(str, weights[path].shape))
        origins = [n for name in layout.names for n in network.weights.origins.get(name, ())]
        change = ", ".join(changes[name] for name in layout.names if name in changes)
        if path.startswith("head") and not head.tensors:
            unused |= dict.fromkeys(origins, "the head is fresh")
            origins, change = [], "fresh"
        elif path.startswith("head/") and head.reordered:
            change = "reordered as the labels"
        first, *others = origins or [""]
        rows.append((path, shape, first, change or "unchanged"))
        rows += [("", "", origin, "") for origin in others]  # several tensors make one weight
    rows += [("", "", name, f"not used: {reason}") for name, reason in unused.items()]
    # Not `reports.tables.format_table`: presets must not import the reports, which build on them.
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]])
        for row in rows
    )
