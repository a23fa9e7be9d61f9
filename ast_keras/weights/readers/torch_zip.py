"""The members of a zip file, as torch.save writes it, every size checked against the file."""

from __future__ import annotations

import dataclasses
import mmap
import struct
import zlib

from ast_keras.errors import WeightsError

ZIP_MAGIC = b"PK\x03\x04"
MAX_MEMBERS = 50_000


@dataclasses.dataclass(frozen=True)
class Member:
    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    begin: int  # of the header before the data


def zip_read(data: mmap.mmap, members: dict[bytes, Member], name: bytes) -> memoryview:
    member = members.get(name)
    shown = ascii(name.decode(errors="replace"))
    if member is None:
        raise WeightsError(f"its zip file lacks {shown}")
    if member.method or member.flags & 1 or member.packed != member.size:
        raise WeightsError(f"{shown} is compressed, which torch.save never does")
    begin = _data_begin(data, member)
    content = memoryview(data)[begin : begin + member.size]
    if zlib.crc32(content) != member.crc:
        raise WeightsError(f"{shown} is damaged: its checksum does not agree")
    return content


def _data_begin(data: mmap.mmap, member: Member) -> int:
    head = data[member.begin : member.begin + 30]
    name_size, extra_size = struct.unpack("<2H", head[26:]) if len(head) == 30 else (0, 0)
    begin: int = member.begin + 30 + name_size + extra_size
    name = data[member.begin + 30 : member.begin + 30 + name_size]
    if head[:4] != ZIP_MAGIC or name != member.name:
        raise WeightsError("its zip directory does not agree with its members")
    return begin


def zip_members(data: mmap.mmap) -> dict[bytes, Member]:
    """Reads the zip directory; members lie before it, and share no byte."""
    position, end, count = _zip_directory(data)
    limit = position
    members: dict[bytes, Member] = {}
    for _ in range(count):
        if position + 46 > end or data[position : position + 4] != b"PK\x01\x02":
            raise WeightsError("its zip directory is damaged")
        fields = struct.unpack("<6H3I5H2I", data[position + 4 : position + 46])
        if fields[12]:
            raise WeightsError("its zip file lies on several disks")
        flags, method, crc, packed, size = fields[2], fields[3], *fields[6:9]
        name_end = position + 46 + fields[9]
        name, extra = data[position + 46 : name_end], data[name_end : name_end + fields[10]]
        size, packed, begin = _zip64(extra, [size, packed, fields[15]])
        members[name] = Member(name, flags, method, crc, packed, size, begin)
        position = name_end + fields[10] + fields[11]
    if position != end or len(members) != count:
        raise WeightsError("its zip directory is damaged, or names a member twice")
    reached = 0
    for member in sorted(members.values(), key=lambda m: m.begin):
        if member.begin < reached:
            raise WeightsError("members of its zip file overlap")
        reached = _data_begin(data, member) + member.packed
    if reached > limit:
        raise WeightsError("members of its zip file reach outside it")
    return members


def _zip64(extra: bytes, values: list[int]) -> list[int]:
    """Returns size, packed size and position, those too large for 32 bits from the extra field."""
    if 0xFFFFFFFF not in values:
        return values
    while len(extra) >= 4:
        kind, size = struct.unpack("<2H", extra[:4])
        if kind == 1:
            wide = extra[4 : 4 + size]
            if size != len(wide) or size < 8 * values.count(0xFFFFFFFF):
                break
            numbers = iter(struct.unpack(f"<{size // 8}Q", wide[: size // 8 * 8]))
            return [next(numbers) if value == 0xFFFFFFFF else value for value in values]
        extra = extra[4 + size :]
    raise WeightsError("its zip directory is damaged")


def _zip_directory(data: mmap.mmap) -> tuple[int, int, int]:
    """Returns where the zip directory begins and ends, and the number of its entries."""
    end = len(data) - 22
    if end < 0 or data[end : end + 4] != b"PK\x05\x06":
        raise WeightsError("its zip directory is missing (probably cut short)")
    short = struct.unpack("<4H2IH", data[end + 4 :])  # disks, entries, size, begin, comment
    fields = short
    if end >= 76 and data[end - 20 : end - 16] == b"PK\x06\x07":  # a second one, of 64 bits
        (where,) = struct.unpack("<Q", data[end - 12 : end - 4])
        end -= 76
        if where != end or data[end : end + 4] != b"PK\x06\x06":
            raise WeightsError("its zip directory is damaged")
        fields = (*struct.unpack("<2I4Q", data[end + 16 : end + 56]), 0)
    widths = (*[0xFFFF] * 4, *[0xFFFFFFFF] * 2, 0)
    agree = all(a in (b, w) for a, b, w in zip(short, fields, widths, strict=True))
    first_disk, disk, here, count, size, begin, comment = fields
    if not agree or first_disk or disk or comment or here != count or begin + size != end:
        raise WeightsError("its zip directory is damaged")
    if count > MAX_MEMBERS:
        raise WeightsError(f"its zip file holds {count} members, more than {MAX_MEMBERS}")
    return begin, end, count
