"""Metadata of a TFLite file for MediaPipe: sample rate, channels and labels.

The metadata are a flatbuffer with the file identifier `M001`, stored in a buffer of the model. The
label file is in a zip archive after the last byte of the model. Both follow TensorFlow's schema
`metadata_schema.fbs`; there is no maintained writer of metadata for audio models.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers

from ast_keras.errors import ExportError
from ast_keras.labels import labels_of_classes

LABELS_FILE = "labels.txt"
_ENTRY = b"TFLITE_METADATA"
_IDENTIFIER = b"M001"
_MIN_PARSER_VERSION = "1.3.0"  # the first version with AudioProperties

# Members of the schema's union ContentProperties, and of its enumeration AssociatedFileType.
_FEATURE_PROPERTIES = 1
_AUDIO_PROPERTIES = 4
_TENSOR_AXIS_LABELS = 2

# Field numbers (vtable slots) of the schema's tables, and their number of fields.
_MODEL_NAME, _MODEL_DESCRIPTION, _MODEL_VERSION, _MODEL_SUBGRAPHS = 0, 1, 2, 3
_MODEL_MIN_PARSER_VERSION, _MODEL_FIELDS = 7, 8
_SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS, _SUBGRAPH_FIELDS = 2, 3, 8
_TENSOR_NAME, _TENSOR_DESCRIPTION, _TENSOR_CONTENT, _TENSOR_FILES, _TENSOR_FIELDS = 0, 1, 3, 6, 7
_CONTENT_TYPE, _CONTENT_PROPERTIES, _CONTENT_FIELDS = 0, 1, 2
_AUDIO_SAMPLE_RATE, _AUDIO_CHANNELS, _AUDIO_FIELDS = 0, 1, 2
_FILE_NAME, _FILE_DESCRIPTION, _FILE_TYPE, _FILE_FIELDS = 0, 1, 2, 5


def add_metadata(
    content: bytes | bytearray,
    *,
    name: str,
    description: str,
    version: str,
    sample_rate: int,
    labels: Sequence[str],
) -> bytes:
    """Returns a TFLite model with metadata for audio input and class scores.

    Args:
        content: The model: one subgraph, one input `[1, samples]`, one output `[1, classes]`.
        name: Name of the model.
        description: What the model does, for a person.
        version: Version of the model.
        sample_rate: Sample rate of the mono input in Hz.
        labels: Names of the classes in the order of the scores.

    Returns:
        The bytes of the file.

    Raises:
        LabelError: If there is not one label for each class.
        ExportError: If a label contains a line break.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    _move_buffers_inside(model, content)
    graph = model.subgraphs[0]
    input_tensor, output_tensor = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    _check_labels(labels, int(output_tensor.shape[-1]))
    packed = _pack_metadata(
        name=name,
        description=description,
        version=version,
        sample_rate=sample_rate,
        input_name=input_tensor.name.decode(),
        output_name=output_tensor.name.decode(),
    )
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


def _move_buffers_inside(model: Any, content: bytes | bytearray) -> None:
    """Copies constants that are stored after the flatbuffer into it.

    litert-quantizer stores them there and refers to them by their offset in the file, which changes
    when the model is packed again.
    """
    for buffer in model.buffers:
        if buffer.offset and buffer.size:
            buffer.data = bytearray(content[buffer.offset : buffer.offset + buffer.size])
            buffer.offset = buffer.size = 0


def _check_labels(labels: Sequence[str], num_classes: int) -> None:
    labels_of_classes(labels, num_classes)
    broken = next((label for label in labels if "\n" in label or "\r" in label), None)
    if broken is not None:
        raise ExportError(f"A label must be one line. Received: {broken!r}")


def _pack_metadata(
    *,
    name: str,
    description: str,
    version: str,
    sample_rate: int,
    input_name: str,
    output_name: str,
) -> Any:
    """Returns the flatbuffer: a ModelMetadata with one SubGraphMetadata.

    A flatbuffer is written from the leaves to the root: strings, vectors and tables must be
    complete before a table can refer to them.
    """
    builder = flatbuffers.Builder(1024)
    waveform = _tensor(
        builder,
        input_name,
        f"Mono audio in [-1, 1] at {sample_rate} Hz.",
        _content(builder, _AUDIO_PROPERTIES, _audio_properties(builder, sample_rate)),
    )
    scores = _tensor(
        builder,
        output_name,
        "Probability of every class.",
        _content(builder, _FEATURE_PROPERTIES, _table(builder, 0)),
        _vector(builder, _labels_file(builder)),
    )
    inputs, outputs = _vector(builder, waveform), _vector(builder, scores)
    subgraph = _table(
        builder,
        _SUBGRAPH_FIELDS,
        _reference(builder, _SUBGRAPH_INPUTS, inputs),
        _reference(builder, _SUBGRAPH_OUTPUTS, outputs),
    )
    subgraphs = _vector(builder, subgraph)
    root = _table(
        builder,
        _MODEL_FIELDS,
        _text(builder, _MODEL_NAME, name),
        _text(builder, _MODEL_DESCRIPTION, description),
        _text(builder, _MODEL_VERSION, version),
        _reference(builder, _MODEL_SUBGRAPHS, subgraphs),
        _text(builder, _MODEL_MIN_PARSER_VERSION, _MIN_PARSER_VERSION),
    )
    builder.Finish(root, _IDENTIFIER)
    return builder.Output()


def _tensor(
    builder: Any, name: str, description: str, content: int, files: int | None = None
) -> int:
    fields = [
        _text(builder, _TENSOR_NAME, name),
        _text(builder, _TENSOR_DESCRIPTION, description),
        _reference(builder, _TENSOR_CONTENT, content),
    ]
    if files is not None:
        fields.append(_reference(builder, _TENSOR_FILES, files))
    return _table(builder, _TENSOR_FIELDS, *fields)


def _content(builder: Any, kind: int, properties: int) -> int:
    return _table(
        builder,
        _CONTENT_FIELDS,
        lambda: builder.PrependUint8Slot(_CONTENT_TYPE, kind, 0),
        _reference(builder, _CONTENT_PROPERTIES, properties),
    )


def _audio_properties(builder: Any, sample_rate: int) -> int:
    return _table(
        builder,
        _AUDIO_FIELDS,
        lambda: builder.PrependUint32Slot(_AUDIO_SAMPLE_RATE, sample_rate, 0),
        lambda: builder.PrependUint32Slot(_AUDIO_CHANNELS, 1, 0),
    )


def _labels_file(builder: Any) -> int:
    return _table(
        builder,
        _FILE_FIELDS,
        _text(builder, _FILE_NAME, LABELS_FILE),
        _text(builder, _FILE_DESCRIPTION, "Names of the classes, one a line."),
        lambda: builder.PrependInt8Slot(_FILE_TYPE, _TENSOR_AXIS_LABELS, 0),
    )


# A field is a function that writes it; `_table` calls it between the table's start and end.
_Field = Callable[[], None]


def _table(builder: Any, num_fields: int, *fields: _Field) -> int:
    """Writes a table and returns its offset."""
    builder.StartObject(num_fields)
    for write in fields:
        write()
    return int(builder.EndObject())


def _reference(builder: Any, slot: int, offset: int) -> _Field:
    """Returns a field that refers to a table, a vector or a string."""
    return lambda: builder.PrependUOffsetTRelativeSlot(slot, offset, 0)


def _text(builder: Any, slot: int, value: str) -> _Field:
    """Writes a string and returns the field that refers to it."""
    return _reference(builder, slot, int(builder.CreateString(value)))


def _vector(builder: Any, item: int) -> int:
    """Writes a vector of one table and returns its offset."""
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(item)
    return int(builder.EndVector())


def _archive(name: str, text: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        # A fixed date, so that the same model gives the same bytes.
        file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text.encode())
    return archive.getvalue()
