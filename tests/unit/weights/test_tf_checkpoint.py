"""TensorFlow checkpoints: complete ones are read, damaged and hostile ones are refused."""

import random
import shutil
import struct
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import tensor_bundle_pb2

from ast_keras.errors import WeightsError
from ast_keras.weights.readers.tf_checkpoint import read_checkpoint

SHARD = "data-00000-of-00001"
MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)


def crc32c(data):
    """Returns the CRC-32C checksum, masked as tables and tensors store it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(number):
    """Returns a variable-length integer: seven bits per byte, lowest first."""
    head = b""
    while number >= 0x80:
        head += bytes([number & 0x7F | 0x80])
        number >>= 7
    return head + bytes([number])


def block(pairs, restarts=(0,)):
    """Returns a block of a table without shared prefixes, with a valid checksum."""
    body = b"".join(
        varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in pairs
    )
    body += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    return body + b"\0" + struct.pack("<I", crc32c(body + b"\0"))


def index_bytes(pairs, **kwargs):
    """Returns an index with one block, with valid checksums."""
    entries, meta = block(pairs, **kwargs), block([])
    handles = block([(b"\xff", varint(0) + varint(len(entries) - 5))])
    footer = varint(len(entries)) + varint(len(meta) - 5)
    footer += varint(len(entries) + len(meta)) + varint(len(handles) - 5)
    return entries + meta + handles + footer.ljust(40, b"\0") + MAGIC


def entry(values=b"", *, dtype=1, shape=(2,), offset=0, size=None, shard=0):
    """Returns the record of one tensor."""
    record = tensor_bundle_pb2.BundleEntryProto(
        dtype=dtype, shard_id=shard, offset=offset, crc32c=crc32c(values)
    )
    record.size = len(values) if size is None else size
    for length in shape:
        record.shape.dim.add(size=length)
    return record.SerializeToString()


HEADER = tensor_bundle_pb2.BundleHeaderProto(num_shards=1).SerializeToString()
VALUES = np.float32([1.5, -2.0]).tobytes()


def write(folder, index, data=VALUES):
    """Writes a checkpoint called `x`, and returns its prefix."""
    (folder / "x.index").write_bytes(index)
    (folder / f"x.{SHARD}").write_bytes(data)
    return folder / "x"


def contents(prefix):
    """Returns the content of the two files of a checkpoint."""
    return [Path(f"{prefix}.{suffix}").read_bytes() for suffix in ("index", SHARD)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint with variables of several types, optimizer slots and counters."""
    rng = np.random.default_rng(0)
    values = {
        "kernel": rng.normal(size=(5, 7)).astype(np.float32),
        "bias": rng.normal(size=7).astype(ml_dtypes.bfloat16),
        "double": rng.normal(size=()),
        "half": rng.normal(size=(0, 3)).astype(np.float16),
        "whole": np.arange(4),
    }
    root = tf.train.Checkpoint(
        model=tf.train.Checkpoint(**{name: tf.Variable(value) for name, value in values.items()}),
        optimizer=tf.train.Checkpoint(rate=tf.Variable(0.1)),
        global_step=tf.Variable(7),
    )
    prefix = root.write(str(tmp_path_factory.mktemp("saved") / "ckpt-7"))
    return prefix, {f"model/{name}": value for name, value in values.items()}


def assert_same(read, expected):
    assert list(read) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(read[name], value, strict=True)


def widened(values):
    """Returns the values as they are read: bfloat16 as float32."""
    return {
        name: value.astype(np.float32) if value.dtype == ml_dtypes.bfloat16 else value
        for name, value in values.items()
    }


@pytest.mark.parametrize("suffix", ["", ".index", f".{SHARD}"])
def test_checkpoint_is_read_from_prefix_or_file(saved, suffix):
    prefix, values = saved
    assert_same(read_checkpoint(prefix + suffix), widened(values))


def test_checkpoint_with_an_assembled_index_is_read(tmp_path):
    prefix = write(tmp_path, index_bytes([(b"", HEADER), (b"scale", entry(VALUES))]))
    assert_same(read_checkpoint(prefix), {"scale": np.float32([1.5, -2.0])})


def test_checkpoint_leaves_out_the_state_of_training(tmp_path):
    tf_keras = pytest.importorskip("tf_keras", reason="the Model Garden is built with it")

    model = tf_keras.Sequential([tf_keras.layers.Dense(3, input_shape=(2,))])
    for optimizer in (
        tf_keras.optimizers.legacy.SGD(momentum=0.9),
        tf_keras.optimizers.SGD(momentum=0.9),
    ):
        pairs = [(tf.ones_like(weight), weight) for weight in model.trainable_variables]
        optimizer.apply_gradients(pairs)
        root = tf.train.Checkpoint(
            model=model, optimizer=optimizer, global_step=tf.Variable(1, dtype=tf.int64)
        )
        prefix = root.save(str(tmp_path / "ckpt"))
        names = tf.train.load_checkpoint(prefix).get_variable_to_shape_map()
        assert sum("momentum" in name or "optimizer" in name for name in names) > 2
        kernel, bias = model.get_weights()
        path = "model/layer_with_weights-0/"
        assert_same(read_checkpoint(prefix), {path + "kernel": kernel, path + "bias": bias})


def test_folder_gives_the_latest_checkpoint_even_when_moved(tmp_path):
    folder = tmp_path / "old"
    root = tf.train.Checkpoint(scale=tf.Variable(0.0))
    manager = tf.train.CheckpointManager(root, str(folder), max_to_keep=3)
    for value in (9.0, 10.0, 11.0):
        root.scale.assign(value)
        manager.save(int(value))
    assert_same(read_checkpoint(folder), {"scale": np.float32(11)})
    shutil.move(folder, tmp_path / "new")
    assert_same(read_checkpoint(tmp_path / "new"), {"scale": np.float32(11)})
    (tmp_path / "new" / "checkpoint").unlink()
    with pytest.raises(WeightsError, match=r"name one of those in it \(ckpt-10, ckpt-11, ckpt-9\)"):
        read_checkpoint(tmp_path / "new")


def test_folder_with_one_checkpoint_needs_no_state(saved, tmp_path):
    prefix, values = saved
    for suffix in ("index", SHARD):
        shutil.copy(f"{prefix}.{suffix}", tmp_path)
    (tmp_path / "checkpoint").write_bytes(b"\xff\x00 nonsense")
    assert_same(read_checkpoint(tmp_path), widened(values))
    shutil.copy(f"{prefix}.index", tmp_path / "other.index")
    with pytest.raises(WeightsError, match="ckpt-7, other"):
        read_checkpoint(tmp_path)


def test_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"needs its index, ckpt-1\.index"):
        read_checkpoint(tmp_path / "ckpt-1")
    with pytest.raises(WeightsError, match=r"name one of those in it \(none\)"):
        read_checkpoint(tmp_path)


def test_missing_data_file_is_refused(saved, tmp_path):
    shutil.copy(f"{saved[0]}.index", tmp_path)
    with pytest.raises(WeightsError, match=f"the data file ckpt-7.{SHARD} is missing"):
        read_checkpoint(tmp_path)


def mutations(index, data):
    """Yields 120 damaged pairs of files: cut short, and with one bit flipped."""
    rng = random.Random(3)
    for length in [
        0,
        1,
        47,
        48,
        len(index) - 49,
        len(index) - 1,
        *rng.sample(range(len(index)), 9),
    ]:
        yield index[:length], data
    for length in [0, 1, len(data) - 1, *rng.sample(range(len(data)), 7)]:
        yield index, data[:length]
    for place in [*rng.sample(range(len(index)), 45), *rng.sample(range(-48, 0), 15)]:
        flipped = bytearray(index)
        flipped[place] ^= 1 << rng.randrange(8)
        yield bytes(flipped), data
    for _ in range(35):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield index, bytes(flipped)


def test_damaged_checkpoint_is_refused_or_reads_the_same(tmp_path):
    values = np.random.default_rng(1).normal(size=(3, 40)).astype(np.float32)
    root = tf.train.Checkpoint(**{f"layer{i}": tf.Variable(row) for i, row in enumerate(values)})
    prefix = root.write(str(tmp_path / "ckpt"))
    index, data = contents(prefix)
    expected = {f"layer{i}": row for i, row in enumerate(values)}
    refused = tried = 0
    lines = set()
    for damaged_index, damaged_data in mutations(index, data):
        begin = time.perf_counter()
        tried += 1
        damaged = write(tmp_path, damaged_index, damaged_data)
        try:
            # Some damage hits padding, or the object graph in the data file.
            assert_same(read_checkpoint(damaged), expected)
        except WeightsError as error:
            refused += 1
            lines |= {str(error).count("\n")}
        assert time.perf_counter() - begin < 1.0
    assert tried == 120
    assert refused > 75
    assert lines == {0}


def test_checkpoint_with_a_flipped_bit_in_a_variable_is_refused_by_checksum(saved, tmp_path):
    prefix, _ = saved
    index, data = contents(prefix)
    kernel = saved[1]["model/kernel"].tobytes()
    rng = random.Random(4)
    for place in rng.sample(range(len(kernel)), 20):
        flipped = bytearray(data)
        flipped[data.index(kernel) + place] ^= 1 << rng.randrange(8)
        with pytest.raises(WeightsError, match="Checksum does not match"):
            read_checkpoint(write(tmp_path, index, bytes(flipped)))


LIES = {
    "negative size of an axis": (entry(VALUES, shape=(-2,)), "has no shape"),
    "sizes that overflow": (entry(VALUES, shape=(1 << 40, 1 << 40, 0)), "is too large"),
    "a terabyte": (entry(VALUES, shape=(1 << 38,), size=1 << 40), "extends beyond its data"),
    "size that is not the shape's": (entry(VALUES, shape=(1 << 30,)), "does not take 8 bytes"),
    "negative size": (entry(VALUES, size=-8), "does not take -8 bytes"),
    "negative offset": (entry(VALUES, offset=-4), "extends beyond its data"),
    "offset behind the end": (entry(VALUES, offset=1), "extends beyond its data"),
    "another data file": (entry(VALUES, shard=3), "x.data-00003-of-00001 is missing"),
    "negative data file": (entry(VALUES, shard=-1), "is missing"),
    "unknown type": (entry(VALUES, dtype=99), "unknown type"),
    "resource": (entry(VALUES, dtype=20), "of type resource"),
    "strings without end": (
        entry(VALUES, dtype=7, shape=(1 << 41,)),
        "is too large",
    ),
    "no record": (b"\xff\xff\xff", "pars"),
    "empty record": (b"", "unknown type|not supported"),
    "too many axes": (entry(VALUES, shape=(1,) * 300), "has no shape"),
    "wrong checksum": (entry(VALUES[::-1], size=8), "Checksum does not match"),
}


@pytest.mark.parametrize("lie", LIES)
def test_false_index_is_refused(tmp_path, lie):
    record, reason = LIES[lie]
    begin = time.perf_counter()
    with pytest.raises(WeightsError, match=reason):
        read_checkpoint(write(tmp_path, index_bytes([(b"", HEADER), (b"scale", record)])))
    assert time.perf_counter() - begin < 1.0


def test_index_whose_tensors_share_bytes_is_refused(tmp_path):
    pairs = [(b"", HEADER), *((b"%03d" % i, entry(VALUES)) for i in range(100))]
    with pytest.raises(WeightsError, match="larger than the data files"):
        read_checkpoint(write(tmp_path, index_bytes(pairs)))


@pytest.mark.parametrize(
    ("pairs", "restarts", "reason"),
    [
        ([(b"scale", entry(VALUES))], (0,), "no header"),
        ([(b"", HEADER), (b"b", entry(VALUES)), (b"a", entry(VALUES))], (0,), "not sorted"),
        ([(b"", HEADER), (b"a" * 2000, entry(VALUES))], (0,), "too long"),
        ([(b"", HEADER), (b"\xff\xfe", entry(VALUES))], (0,), "utf-8"),
        ([(b"", HEADER), (b"scale", entry(VALUES))], (0, 7), "between its entries"),
        ([(b"", HEADER), (b"a", entry(VALUES[:4], shape=(1,))),
          (b"a/.ATTRIBUTES/VARIABLE_VALUE", entry(VALUES[:4], shape=(1,)))],
         (0,), "two variables are called a"),
    ],
)  # fmt: skip
def test_malformed_index_is_refused(tmp_path, pairs, restarts, reason):
    with pytest.raises(WeightsError, match=reason):
        read_checkpoint(write(tmp_path, index_bytes(pairs, restarts=restarts)))


@pytest.mark.parametrize(
    ("size", "reason"),
    [(1 << 31, "extends beyond"), (1 << 47, "extends beyond"), (2, "extends beyond")],
)
def test_index_with_a_false_size_in_its_footer_is_refused(tmp_path, size, reason):
    index = index_bytes([(b"", HEADER), (b"scale", entry(VALUES))])
    footer = varint(0) + varint(0) + varint(0) + varint(size)
    with pytest.raises(WeightsError, match=reason):
        read_checkpoint(write(tmp_path, index[:-48] + footer.ljust(40, b"\0") + MAGIC))


def test_compressed_index_is_refused(tmp_path):
    index = bytearray(index_bytes([(b"", HEADER), (b"scale", entry(VALUES))]))
    index[len(block([(b"", HEADER), (b"scale", entry(VALUES))])) - 5] = 1
    with pytest.raises(WeightsError, match="compressed"):
        read_checkpoint(write(tmp_path, bytes(index)))


def test_oversized_index_is_refused_unread(tmp_path):
    prefix = write(tmp_path, b"")
    with open(f"{prefix}.index", "r+b") as file:
        file.truncate(1 << 34)  # sparse: takes no room on the disk
    with pytest.raises(WeightsError, match="larger than"):
        read_checkpoint(prefix)
