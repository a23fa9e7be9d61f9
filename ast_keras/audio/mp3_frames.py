"""Frames of MPEG audio (MP3): which are valid, and a file of the valid ones.

libmpg123, which decodes MP3 for libsndfile, gives up at some kinds of damage, depending on how much
is read at a time, and writes to standard error about all of them. It estimates the length of a file
that does not state it. So all frame headers are checked before it decodes, which takes 1 to 5 % of
the time of decoding, less in long files. From a damaged file it receives the valid frames and their
number:

- Damaged frames become frames of silence, so that what follows keeps its time.
- So do frames that need bits of damaged ones (the *bit reservoir*).

Reference: ISO/IEC 11172-3, section 2.4.1: headers and side information.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import mmap
import re
import struct
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ast_keras.audio.spliced_file import Part, Span

Array: TypeAlias = npt.NDArray[Any]
Data: TypeAlias = bytes | mmap.mmap

# Bit rates in kbit/s by (whether it is MPEG 1, layer); sample rates in Hz by the version bits.
_BIT_RATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_VALID_THIRD = bytes(16 * bits + low for bits in range(1, 15) for low in range(12))
_SYNC = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][%b]" % re.escape(_VALID_THIRD))
# This number of frames in a row, or frames up to the end of the file, are no coincidence.
_CHAIN = 4
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI")
# Encoders disagree by up to this number of frames about the length in the header.
_SLACK_FRAMES = 2
_TAIL_BYTES = 4096


class Format(NamedTuple):
    """Properties that do not change within a stream."""

    version: int  # 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
    layer: int
    rate: int
    is_mono: bool

    @property
    def samples(self) -> int:
        """Samples of a frame."""
        return {1: 384, 2: 1152, 3: 1152 if self.version == 3 else 576}[self.layer]

    @property
    def side_bytes(self) -> int:
        """Bytes of the side information of layer III."""
        return (17 if self.is_mono else 32) if self.version == 3 else (9 if self.is_mono else 17)


@dataclasses.dataclass(frozen=True)
class Mp3Stream:
    """Frames of one format.

    Attributes:
        format: The format.
        parts: Parts of a file of all its frames, for `SplicedFile`.
        total: Number of frames, with those that are lost.
        lost: Number of frames that are missing, or replaced by silence.
        is_intact: Whether the original needs no change.
    """

    format: Format
    parts: list[Part]
    total: int
    lost: int
    is_intact: bool

    @property
    def seconds(self) -> float:
        """Duration of all frames."""
        return self.total * self.format.samples / self.format.rate

    @property
    def lost_seconds(self) -> float:
        """Duration of the lost frames."""
        return self.lost * self.format.samples / self.format.rate

    @property
    def num_bytes(self) -> int:
        """Size of the frames that are used."""
        return sum(part.stop - part.start for part in self.parts if isinstance(part, Span))


class _Run(NamedTuple):
    """Frames without a gap. `junk` bytes before it are neither frames nor tags."""

    format: Format
    starts: Array
    stop: int
    junk: int


def find_streams(data: Data) -> list[Mp3Stream]:
    """Returns the streams of an MP3 file: one, unless files of several formats were joined.

    Args:
        data: Content of the file.

    Returns:
        A list of streams, empty if the file contains no MPEG audio.
    """
    groups: list[list[_Run]] = []
    for run in _find_runs(data):
        if groups and groups[-1][-1].format == run.format:
            groups[-1].append(run)
        else:
            groups.append([run])
    return [_repair(data, runs, len(groups) == 1) for runs in groups]


def _find_runs(data: Data) -> list[_Run]:
    """Returns the runs of frames. One without frames at the end holds the bytes that are left."""
    runs: list[_Run] = []
    stop = skip_tags(data, 0)
    while (found := _next_run(data, stop)) is not None:
        starts, next_stop = found
        junk = int(starts[0]) - stop
        is_mono = np.frombuffer(data, np.uint8)[starts + 3] >> 6 == 3
        edges = [0, *(np.flatnonzero(np.diff(is_mono)) + 1), len(starts)]
        for first, last in itertools.pairwise(edges):
            end = int(starts[last]) if last < len(starts) else next_stop
            runs.append(_Run(_format(data, int(starts[first])), starts[first:last], end, junk))
            junk = 0
        stop = skip_tags(data, next_stop)
    rest = data[stop : stop + _TAIL_BYTES]
    if runs and rest.strip(b"\0"):
        runs.append(_Run(runs[-1].format, runs[-1].starts[:0], stop, len(data) - stop))
    return runs


def _next_run(data: Data, position: int) -> tuple[Array, int] | None:
    """Returns the starts of the next frames that follow each other, and the end of the last."""
    for match in _SYNC.finditer(data, position):
        start = match.start()
        sizes = _frame_sizes(data[start + 1] & 0xFE, data[start + 2] & 0x0C)
        starts, stop, length = [], start, len(data)
        while (size := sizes.get(data[stop : stop + 3])) and stop + size <= length:
            starts.append(stop)
            stop += size
        is_whole = start == position and starts and _ends_cleanly(data, stop)
        if len(starts) >= _CHAIN or is_whole:
            return np.array(starts), stop
    return None


@functools.lru_cache
def _frame_sizes(second: int, third: int) -> dict[bytes, int]:
    """Returns the size of a frame in bytes, by the first three bytes of headers of one format."""
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    rate = _RATES[version][third >> 2]
    sizes = {}
    for index, kilobits in enumerate(_BIT_RATES[version == 3, layer], start=1):
        for low in range(4):
            is_padded = low >> 1
            if layer == 1:
                size = (12_000 * kilobits // rate + is_padded) * 4
            else:
                samples = 72 if layer == 3 and version != 3 else 144
                size = 1_000 * samples * kilobits // rate + is_padded
            for unprotected in range(2):
                sizes[bytes((0xFF, second | unprotected, index << 4 | third | low))] = size
    return sizes


def _format(data: Data, start: int) -> Format:
    second, third, fourth = data[start + 1 : start + 4]
    version = second >> 3 & 3
    rate = _RATES[version][third >> 2 & 3]
    return Format(version, 4 - (second >> 1 & 3), rate, fourth >> 6 == 3)


def is_frame(data: bytes) -> bool:
    """Returns whether data begin with the header of a frame."""
    return _SYNC.match(data) is not None


def skip_tags(data: Data, position: int) -> int:
    """Returns the position after ID3v2 tags; their size has seven bits in each byte."""
    while data[position : position + 3] == b"ID3" and position + 10 <= len(data):
        flags, size = data[position + 5], data[position + 6 : position + 10]
        position += 10 + sum((byte & 127) << 7 * i for i, byte in enumerate(reversed(size)))
        position += 10 * (flags >> 4 & 1)  # a footer
    return position


def _ends_cleanly(data: Data, stop: int) -> bool:
    """Returns whether a frame that ends here is whole: a tag, a header or nothing follows."""
    rest = data[stop : stop + 16]
    return not rest or rest.startswith(_TAGS) or _SYNC.match(rest) is not None


def _repair(data: Data, runs: list[_Run], is_only: bool) -> Mp3Stream:
    """Returns the stream of some runs, with silence in the gaps between them."""
    format, start = runs[0].format, int(runs[0].starts[0])
    mean_size = _mean_size(runs[0])
    stated = _stated_frames(data, start, format)
    if stated is not None:  # the first frame holds no sound
        runs = [runs[0]._replace(starts=runs[0].starts[1:]), *runs[1:]]
    parts: list[Part] = []
    count = inside = at_edges = 0
    found = sum(len(run.starts) for run in runs)
    is_one_gap = len(runs) == 2 and len(runs[1].starts) > 0 and runs[0].junk == 0
    for run in runs:
        damaged, reservoir = _damaged_frames(data, run)
        num_damaged, missing = int(damaged.sum()), round(run.junk / mean_size)
        if count and len(run.starts):
            if is_one_gap and run.junk and (stated or 0) > found:
                missing = (stated or 0) - found
            missing = max(missing, int(run.junk > 0))
            parts += missing * [_silence(data, start, format)]
            count += missing
            inside += missing + num_damaged
        else:
            leading = int((~damaged).argmax()) if num_damaged < len(damaged) else num_damaged
            at_edges += missing + leading
            inside += num_damaged - leading
        parts += _frame_parts(data, run, damaged, reservoir)
        count += len(damaged)
        mean_size = _mean_size(run) if len(run.starts) > 1 else mean_size
    at_edges = max(at_edges, (stated or 0) - count)
    at_edges *= at_edges > _SLACK_FRAMES
    lost = inside + at_edges
    is_intact = is_only and len(runs) == 1 and start == 0 and not lost and not num_damaged
    if stated is not None or _has_variable_rate(runs):  # else libsndfile's estimate is exact
        is_intact = is_intact and stated == count
        num_bytes = sum(
            len(part) if isinstance(part, bytes) else part[1] - part[0] for part in parts
        )
        parts.insert(0, _length_frame(data, start, format, bool(stated), count, num_bytes))
    return Mp3Stream(format, parts, count + at_edges, lost, is_intact)


def _mean_size(run: _Run) -> float:
    """Returns the mean size of the last frames of a run, which are most like those after it."""
    starts = run.starts[-16:]
    return float(run.stop - starts[0]) / len(starts)


def _has_variable_rate(runs: list[_Run]) -> bool:
    return any(len(run.starts) > 1 and np.ptp(np.diff(run.starts)) > 4 for run in runs)


def _frame_parts(data: Data, run: _Run, damaged: Array, reservoir: Array) -> list[Part]:
    """Returns the frames of a run, with silence instead of damaged ones."""
    if not len(run.starts):
        return []
    parts: list[Part] = []
    stops = np.append(run.starts[1:], run.stop)
    start = int(run.starts[0])
    for index in np.flatnonzero(damaged):
        frame, stop = int(run.starts[index]), int(stops[index])
        silence = _silence(data, frame, run.format, stop, int(reservoir[index]))
        parts += [Span(start, frame), silence]
        start = stop
    return [*parts, Span(start, run.stop)]


def _silence(
    data: Data, start: int, format: Format, stop: int | None = None, reservoir: int = 0
) -> bytes:
    """Returns a frame of silence with the header of that at `start`.

    With `stop`, the end of the frame, its data and `reservoir` bytes before it are kept, because
    later frames may need them.
    """
    header = bytearray(data[start : start + 4])
    size = _frame_sizes(header[1] & 0xFE, header[2] & 0x0C)[bytes(header[:3])]
    kept = b""
    if stop is not None and format.layer == 3:
        kept = data[start + 4 + 2 * (not header[1] & 1) + format.side_bytes : stop]
    header[1] |= 1  # no checksum
    side = (reservoir << (7 if format.version == 3 else 8)).to_bytes(2, "big")
    return bytes(header) + side + bytes(size - 6 - len(kept)) + kept


def _stated_frames(data: Data, start: int, format: Format) -> int | None:
    """Returns the number of frames in the header of LAME and others; None without that header."""
    header = data[start : start + 4 + 2 + format.side_bytes + 12]
    place = 4 + 2 * (not header[1] & 1) + format.side_bytes
    if format.layer != 3 or header[place : place + 4] not in (b"Xing", b"Info"):
        return None
    flags, frames = struct.unpack(">II", header[place + 4 : place + 12])
    return int(frames) if flags & 1 else 0


def _length_frame(
    data: Data, start: int, format: Format, is_known: bool, count: int, num_bytes: int
) -> bytes:
    """Returns a frame that states the length of the others.

    It is the frame at `start`, which has the encoder's padding, if `is_known`; else a new one.
    """
    header = bytearray(data[start : start + 4])
    sizes = _frame_sizes(header[1] & 0xFE, header[2] & 0x0C)
    if is_known:
        frame = bytearray(data[start : start + sizes[bytes(header[:3])]])
        place = 4 + 2 * (not header[1] & 1) + format.side_bytes + 4
        has_size = frame[place + 3] & 2
        struct.pack_into(">I", frame, place + 4, count)
        if has_size:
            struct.pack_into(">I", frame, place + 8, num_bytes + len(frame))
        return bytes(frame)
    header[1] |= 1  # no checksum
    header[2] = 0x90 | header[2] & 0x0F  # a bit rate at which the fields fit in
    fields = bytes(header) + bytes(format.side_bytes) + struct.pack(">4sII", b"Info", 1, count)
    return fields.ljust(sizes[bytes(header[:3])], b"\0")


def _damaged_frames(data: Data, run: _Run) -> tuple[Array, Array]:
    """Returns which frames of a run cannot be decoded, and the bytes that each can borrow."""
    starts, format = run.starts, run.format
    damaged = np.zeros(len(starts), bool)
    if not len(starts):
        return damaged, damaged
    if not _ends_cleanly(data, run.stop):
        damaged[-1] = True  # the damage may begin within it
    if format.layer != 3:
        return damaged, 0 * starts
    is_mpeg1, channels = format.version == 3, 1 if format.is_mono else 2
    content = np.frombuffer(data, np.uint8)
    side = starts + 4 + 2 * (~content[starts + 1] & 1).astype(np.int64)
    columns = np.arange(format.side_bytes + 2)
    # Three bytes in a row as one number, from each byte of the side information.
    table = content[np.minimum(side[:, None] + columns, len(content) - 1)].astype(np.int32)
    table = table[:, :-2] << 16 | table[:, 1:-1] << 8 | table[:, 2:]

    def field(offset: Array, size: int) -> Array:
        value: Array = table[:, offset // 8] >> (24 - offset % 8 - size)
        return value & ((1 << size) - 1)

    # Private and shared bits, then the same fields for each granule and channel.
    first = (18 if format.is_mono else 20) if is_mpeg1 else (9 if format.is_mono else 10)
    granules = first + (59 if is_mpeg1 else 63) * np.arange(channels * (2 if is_mpeg1 else 1))
    borrowed = table[:, 0] >> (15 if is_mpeg1 else 16)
    used = field(granules, 12).sum(axis=1)
    has_window_0 = field(granules + (33 if is_mpeg1 else 38), 3) == 0b100
    damaged |= ((field(granules + 12, 9) > 288) | has_window_0).any(axis=1)
    main = np.append(starts[1:], run.stop) - side - format.side_bytes
    damaged |= used > 8 * (main + borrowed)
    # A frame may borrow bits from those since the last damage only.
    before = np.cumsum(main) - main
    is_break = np.append(True, damaged[:-1])
    last_break = np.maximum.accumulate(np.where(is_break, np.arange(len(starts)), 0))
    reservoir = np.minimum(before - before[last_break], 511 if is_mpeg1 else 255)
    return damaged | (borrowed > reservoir), reservoir
