"""The index of a TensorFlow checkpoint: a table of keys and values, in the format of LevelDB.

TensorFlow reads such tables itself and verifies their checksums, but not the sizes in them: a wrong
shape aborts the process, and a wrong size allocates any amount of memory. `read_table` therefore
reads the table before TensorFlow does and checks every size. The alternative, a child process with
a memory limit, would need as much code and import TensorFlow again for each file.
"""

from __future__ import annotations

from collections.abc import Iterator

_MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER_BYTES = 48
_BLOCK_TRAILER_BYTES = 5  # compression type, checksum
# Far above any real model, whose index takes 15 kB for a ViT-B.
MAX_INDEX_BYTES = 16 << 20
_MAX_TENSORS = 100_000
_MAX_KEY_BYTES = 1024


def read_table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of a table.

    The file consists of data blocks, an index block that lists them, and a footer.

    Args:
        data: The content of the index file.

    Yields:
        Keys in increasing order, and their values.

    Raises:
        ValueError: If the table is malformed.
        IndexError: If it is truncated.
    """
    footer = data[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or not footer.endswith(_MAGIC):
        raise ValueError("the index does not end with its magic number")
    # A block is located by two numbers: its first byte and its size.
    *_, at = _numbers(footer, 0, 2)
    start, size, _ = _numbers(footer, at, 2)
    end = count = 0
    last_key = None
    for _, place in _block(data, start, size):
        start, size, _ = _numbers(place, 0, 2)
        # Blocks follow each other, so that no two entries can use the same bytes.
        if start < end:
            raise ValueError("blocks of the index overlap")
        end = start + size
        for key, value in _block(data, start, size):
            count += 1
            if last_key is not None and key <= last_key:
                raise ValueError("the index is not sorted")
            if count > _MAX_TENSORS:
                raise ValueError(f"the index lists more than {_MAX_TENSORS} tensors")
            last_key = key
            yield key, value


def _block(data: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of one block.

    A key is stored as the number of bytes that it has in common with the key before it, and the
    bytes that follow them.
    """
    if start + size + _BLOCK_TRAILER_BYTES > len(data) - _FOOTER_BYTES or size < 4:
        raise ValueError("a block extends beyond the index")
    if data[start + size] != 0:
        raise ValueError("the index is compressed")
    block = data[start : start + size]
    restarts = int.from_bytes(block[-4:], "little")
    end = size - 4 - 4 * restarts
    if end < 0:
        raise ValueError("a block of the index is too short")
    key, at, whole = b"", 0, {0}
    while at < end:
        first = at
        shared, added, length, at = _numbers(block, at, 3)
        if shared > len(key) or at + added + length > end or shared + added > _MAX_KEY_BYTES:
            raise ValueError("an entry of the index is too long")
        if shared == 0:
            whole.add(first)
        key = key[:shared] + block[at : at + added]
        at += added + length
        yield key, block[at - length : at]
    # TensorFlow's lookups start at these positions. One that is not the start of a whole key would
    # make them read a wrong entry.
    if not whole.issuperset(memoryview(block[end:-4]).cast("I")):
        raise ValueError("a block of the index points between its entries")


def _numbers(data: bytes, at: int, count: int) -> tuple[int, ...]:
    """Returns variable-length integers (7 bits per byte, lowest first) and the position after."""
    numbers = []
    for _ in range(count):
        value = shift = 0
        while data[at] >= 0x80:
            value |= (data[at] & 0x7F) << shift
            shift += 7
            at += 1
            if shift > 63:
                raise ValueError("a number of the index is too long")
        numbers.append(value | data[at] << shift)
        at += 1
    return *numbers, at
