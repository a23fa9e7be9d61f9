"""Zip files of `torch.save`: uncompressed members, read as views of the memory-mapped file.

`zipfile` reads the directory of the zip file. Every size in it is then checked against the file,
because `zipfile` trusts some of them.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib

from ast_keras.errors import WeightsError

ZIP_MAGIC = b"PK\x03\x04"
_END_MAGIC, _END_BYTES = b"PK\x05\x06", 22
_LOCATOR_MAGIC, _LOCATOR_BYTES, _END64_BYTES = b"PK\x06\x07", 20, 56
_HEADER_BYTES = 30  # before the name of a member
_MAX_DIRECTORY_BYTES = 1 << 20  # the directory of a thousand tensors takes 0.1 MB

Members = dict[str, zipfile.ZipInfo]


def zip_members(data: mmap.mmap) -> Members:
    """Returns the members of a zip file by name.

    Args:
        data: The file.

    Raises:
        WeightsError: If the directory is damaged, or if members overlap, leave the file or are
            preceded by other data.
    """
    begin, count = _directory(data)
    try:
        infos = zipfile.ZipFile(data).infolist()  # type: ignore[call-overload]
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, OSError):
        raise WeightsError("its zip directory is damaged") from None
    members = {info.filename: info for info in infos}
    if len(members) != len(infos) or count not in (len(infos), 0xFFFF):
        raise WeightsError("its zip directory is damaged, or names a member twice")
    reached = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.volume:
            raise WeightsError("its zip file is split into several disks")
        if info.header_offset < reached or (not reached and info.header_offset):
            raise WeightsError("members of its zip file overlap, or do not begin the file")
        reached = _data_begin(data, info) + info.compress_size
    if reached > begin:
        raise WeightsError("members of its zip file extend beyond it")
    return members


def zip_read(data: mmap.mmap, members: Members, name: str) -> memoryview:
    """Returns the content of a member, after verifying its checksum.

    Args:
        data: The file.
        members: The result of `zip_members`.
        name: Name of the member.

    Raises:
        WeightsError: If there is no such member, or if it is compressed, encrypted or damaged.
    """
    info = members.get(name)
    if info is None:
        raise WeightsError(f"its zip file lacks {name!a}")
    if info.compress_type or info.flag_bits & 1 or info.compress_size != info.file_size:
        raise WeightsError(f"{name!a} is compressed, which torch.save never does")
    begin = _data_begin(data, info)
    content = memoryview(data)[begin : begin + info.file_size]
    if zlib.crc32(content) != info.CRC:
        raise WeightsError(f"{name!a} is damaged: its checksum does not match")
    return content


def _directory(data: mmap.mmap) -> tuple[int, int]:
    """Returns where the directory begins, and the 16-bit number of its entries.

    The directory must be small and end the file: `zipfile` would search for it, and read all of it.
    """
    end = len(data) - _END_BYTES
    if end < 0 or data[end : end + 4] != _END_MAGIC:
        raise WeightsError("its zip directory is missing (probably truncated)")
    count, size = struct.unpack("<HI", data[end + 10 : end + 16])
    locator = end - _LOCATOR_BYTES
    if locator >= _END64_BYTES and data[locator : locator + 4] == _LOCATOR_MAGIC:
        end = locator - _END64_BYTES
        (size,) = struct.unpack("<Q", data[end + 40 : end + 48])
    if size > _MAX_DIRECTORY_BYTES:
        raise WeightsError(f"its zip directory takes more than {_MAX_DIRECTORY_BYTES} bytes")
    return end - size, count


def _data_begin(data: mmap.mmap, info: zipfile.ZipInfo) -> int:
    """Returns where the content of a member begins, after its own header."""
    begin = info.header_offset
    header = data[begin : begin + _HEADER_BYTES]
    sizes = struct.unpack("<2H", header[26:]) if len(header) == _HEADER_BYTES else (0, 0)
    name = data[begin + _HEADER_BYTES : begin + _HEADER_BYTES + sizes[0]]
    encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
    if header[:4] != ZIP_MAGIC or name.decode(encoding, "replace") != info.orig_filename:
        raise WeightsError("its zip directory does not agree with its members")
    end: int = begin + _HEADER_BYTES + sum(sizes)
    return end
