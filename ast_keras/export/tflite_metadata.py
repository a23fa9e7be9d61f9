"""What MediaPipe must know of a TFLite file, written into the file: rate, channels, labels.

The metadata is a flatbuffer of its own (file identifier `M001`) in a buffer of the model, and the
labels are a zip archive behind the model's last byte; both as TensorFlow's metadata schema says.
There is no maintained writer of it for sound.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers

from ast_keras.errors import ExportError

LABELS_FILE = "labels.txt"
_ENTRY = b"TFLITE_METADATA"
_IDENTIFIER = b"M001"
_AUDIO_PROPERTIES = 4  # in the schema's union of kinds of content
_FEATURE_PROPERTIES = 1
_TENSOR_AXIS_LABELS = 2


def add_metadata(
    content: bytes | bytearray,
    *,
    name: str,
    description: str,
    version: str,
    sample_rate: int,
    labels: Sequence[str],
) -> bytes:
    """Returns a TFLite model with metadata for sound in and class scores out.

    Args:
      content: The model: one subgraph, one input `[1, samples]`, one output `[1, classes]`.
      name: Of the model.
      description: What it does, for a person.
      version: Of the model.
      sample_rate: Of the input, in Hz; the sound is mono.
      labels: A name for each class, in the order of the scores.

    Raises:
      ExportError: If there is not one label for each class, or a label is longer than its line.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    _bring_buffers_inside(model, content)
    classes = int(model.subgraphs[0].tensors[model.subgraphs[0].outputs[0]].shape[-1])
    _check_labels(labels, classes)
    packed = _pack_metadata(name, description, version, sample_rate, model)
    model.metadata = [m for m in model.metadata or [] if bytes(m.name) != _ENTRY]
    entry = schema.MetadataT()
    entry.name, entry.buffer = _ENTRY, len(model.buffers)
    model.metadata.append(entry)
    buffer = schema.BufferT()
    buffer.data = bytearray(packed)
    model.buffers.append(buffer)
    builder = flatbuffers.Builder(len(content) + len(packed) + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output()) + _archive(LABELS_FILE, "".join(f"{x}\n" for x in labels))


def _bring_buffers_inside(model: Any, content: bytes | bytearray) -> None:
    """Copies constants that lie behind the flatbuffer into it.

    litert-quantizer puts them there, by their distance from the file's first byte; packed again,
    the file would have them somewhere else.
    """
    for buffer in model.buffers:
        if buffer.offset and buffer.size:
            buffer.data = bytearray(content[buffer.offset : buffer.offset + buffer.size])
            buffer.offset = buffer.size = 0


def _check_labels(labels: Sequence[str], classes: int) -> None:
    if len(labels) != classes:
        raise ExportError(
            "There must be one label for each class. "
            f"Received: {len(labels)} labels, {classes} classes"
        )
    broken = next((label for label in labels if "\n" in label or "\r" in label), None)
    if broken is not None:
        raise ExportError(f"A label must be one line. Received: {broken!r}")


def _pack_metadata(name: str, description: str, version: str, sample_rate: int, model: Any) -> Any:
    """Returns the metadata's flatbuffer; the numbers are the schema's slots."""
    builder = flatbuffers.Builder(1024)
    graph = model.subgraphs[0]
    tensor_names = [graph.tensors[i].name.decode() for i in (graph.inputs[0], graph.outputs[0])]

    def text(value: str) -> int:
        return int(builder.CreateString(value))

    def offset(slot: int, value: int) -> Callable[[], None]:
        return lambda: builder.PrependUOffsetTRelativeSlot(slot, value, 0)

    def table(slots: int, *fill: Callable[[], None]) -> int:
        builder.StartObject(slots)
        for write in fill:
            write()
        return int(builder.EndObject())

    def vector(item: int) -> int:
        builder.StartVector(4, 1, 4)
        builder.PrependUOffsetTRelative(item)
        return int(builder.EndVector())

    def content_of(kind: int, properties: int) -> int:
        return table(2, lambda: builder.PrependUint8Slot(0, kind, 0), offset(1, properties))

    audio = table(
        2,
        lambda: builder.PrependUint32Slot(0, sample_rate, 0),
        lambda: builder.PrependUint32Slot(1, 1, 0),  # channels
    )
    audio = content_of(_AUDIO_PROPERTIES, audio)
    heard = text(f"Mono sound in [-1, 1] at {sample_rate} Hz.")
    sound = table(7, offset(0, text(tensor_names[0])), offset(1, heard), offset(3, audio))
    file = table(
        5,
        offset(0, text(LABELS_FILE)),
        offset(1, text("Names of the classes, one a line.")),
        lambda: builder.PrependInt8Slot(2, _TENSOR_AXIS_LABELS, 0),
    )
    features = content_of(_FEATURE_PROPERTIES, table(0))
    said = text("Probability of every class.")
    scores = table(
        7,
        offset(0, text(tensor_names[1])),
        offset(1, said),
        offset(3, features),
        offset(6, vector(file)),
    )
    inputs, outputs = vector(sound), vector(scores)
    subgraph = vector(table(8, offset(2, inputs), offset(3, outputs)))
    root = table(
        8,
        offset(0, text(name)),
        offset(1, text(description)),
        offset(2, text(version)),
        offset(3, subgraph),
        offset(7, text("1.3.0")),  # the first parser that knows sound
    )
    builder.Finish(root, _IDENTIFIER)
    return builder.Output()


def _archive(name: str, text: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        # A fixed date: the same model gives the same bytes.
        file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text.encode())
    return archive.getvalue()
