"""Metadata of a TFLite file, read by a flatbuffer reader that shares no code with the writer."""

import io
import struct
import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from ast_keras import from_preset
from ast_keras.errors import ExportError, LabelError
from ast_keras.export.quantization import quantize_layers
from ast_keras.export.tflite_conversion import convert
from ast_keras.export.tflite_metadata import add_metadata

LABELS = ("dog", "Zither", "Äthertöne, leise", "music 2")
SETTINGS = {
    "name": "model",
    "description": "what it does",
    "version": "0.1",
    "sample_rate": 22050,
    "labels": LABELS,
}


class Table:
    """A table of a flatbuffer: fields by slot, as the binary format defines them."""

    def __init__(self, data, place):
        self.data, self.place = data, place
        self.fields = place - struct.unpack_from("<i", data, place)[0]

    def at(self, slot):
        size = struct.unpack_from("<H", self.data, self.fields)[0]
        entry = 4 + 2 * slot
        if entry >= size:
            return None
        offset = struct.unpack_from("<H", self.data, self.fields + entry)[0]
        return self.place + offset if offset else None

    def number(self, slot, kind):
        place = self.at(slot)
        return 0 if place is None else struct.unpack_from(kind, self.data, place)[0]

    def follow(self, slot):
        place = self.at(slot)
        return place + struct.unpack_from("<I", self.data, place)[0]

    def table(self, slot):
        return Table(self.data, self.follow(slot))

    def text(self, slot):
        place = self.follow(slot)
        size = struct.unpack_from("<I", self.data, place)[0]
        return self.data[place + 4 : place + 4 + size].decode()

    def tables(self, slot):
        place = self.follow(slot)
        count = struct.unpack_from("<I", self.data, place)[0]
        places = [place + 4 + 4 * i for i in range(count)]
        return [Table(self.data, p + struct.unpack_from("<I", self.data, p)[0]) for p in places]


@pytest.fixture(scope="module")
def model():
    return from_preset("ast_test", num_classes=4, num_frames=32)


@pytest.fixture(scope="module")
def plain(model):
    return convert(model, 5200)


def metadata_of(content):
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    entries = [m for m in model.metadata if m.name == b"TFLITE_METADATA"]
    assert len(entries) == 1
    data = bytes(model.buffers[entries[0].buffer].data)
    assert data[4:8] == b"M001"
    return Table(data, struct.unpack_from("<I", data)[0])


def scores_of(content):
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 5200)).astype("float32")
    return Interpreter(model_content=content).get_signature_runner()(waveform=waveform)["scores"]


def test_metadata_holds_rate_channels_and_labels(plain):
    root = metadata_of(add_metadata(plain, **SETTINGS))
    assert [root.text(slot) for slot in (0, 1, 2)] == ["model", "what it does", "0.1"]
    (graph,) = root.tables(3)
    (waveform,), (scores,) = graph.tables(2), graph.tables(3)
    content = waveform.table(3)
    assert content.number(0, "<B") == 4, "AudioProperties"
    properties = content.table(1)
    assert properties.number(0, "<I") == 22050
    assert properties.number(1, "<I") == 1
    assert scores.text(0)
    assert scores.table(3).number(0, "<B") == 1, "FeatureProperties"
    (file,) = scores.tables(6)
    assert file.text(0) == "labels.txt"
    assert file.number(2, "<b") == 2, "TENSOR_AXIS_LABELS"
    assert root.text(7) == "1.3.0"


def test_labels_are_in_a_zip_archive_after_the_model(plain):
    content = add_metadata(plain, **SETTINGS)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (entry,) = archive.infolist()
        assert entry.compress_type == zipfile.ZIP_STORED
        assert archive.read("labels.txt").decode().splitlines() == list(LABELS)


def test_same_model_gives_the_same_bytes_and_scores(plain):
    content = add_metadata(plain, **SETTINGS)
    assert add_metadata(plain, **SETTINGS) == content
    np.testing.assert_array_equal(scores_of(content), scores_of(plain))


def test_existing_metadata_are_replaced(plain):
    again = add_metadata(add_metadata(plain, **SETTINGS), **{**SETTINGS, "sample_rate": 16000})
    (graph,) = metadata_of(again).tables(3)
    assert graph.tables(2)[0].table(3).table(1).number(0, "<I") == 16000


def test_constants_after_the_flatbuffer_are_moved_inside(model, plain):
    small = quantize_layers(plain, "int8", model)
    outside = [b for b in schema.ModelT.InitFromPackedBuf(small, 0).buffers if b.offset]
    assert outside, "the quantizer no longer stores constants there: the test has no effect"
    content = add_metadata(small, **SETTINGS)
    assert not [b for b in schema.ModelT.InitFromPackedBuf(content, 0).buffers if b.offset]
    np.testing.assert_array_equal(scores_of(content), scores_of(small))


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (LABELS[:3], LabelError, "3 labels, num_classes=4"),
        ((*LABELS[:3], "two\nlines"), ExportError, "must be one line"),
    ],
)
def test_wrong_labels_are_rejected(labels, error, message, plain):
    with pytest.raises(error, match=message):
        add_metadata(plain, **{**SETTINGS, "labels": labels})
