"""Decoding of what libsndfile cannot read, such as AAC and video files, by the `ffmpeg` command.

The environment variable `AST_KERAS_FFMPEG` names another command, or is `off`.

ffmpeg writes the first audio stream to a pipe, at the rate and channels of the file, and is killed
when it stalls or is not needed any more. It may open the given file and no other: neither playlists
nor addresses. Nothing is written to disk.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import re
import shutil
import struct
import subprocess
import threading
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ast_keras.errors import ArgumentError, AudioDecodeError

# Suffixes of formats that only ffmpeg reads. The content of a file decides how it is read.
# fmt: off
FFMPEG_SUFFIXES: tuple[str, ...] = (
    ".m4a", ".m4b", ".m4r", ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3gpp", ".3g2",
    ".aac", ".adts", ".ac3", ".eac3", ".dts", ".amr", ".awb", ".wma", ".asf", ".wmv",
    ".webm", ".weba", ".mka", ".mkv", ".avi", ".flv", ".f4v", ".mpg", ".mpeg", ".vob", ".mts",
    ".m2ts", ".ogv", ".spx", ".ape", ".wv", ".tta", ".dsf",
)
# fmt: on
# ffmpeg's names of the formats that it may detect. Playlists, which name other files, are not here.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,aac,ac3,eac3,dts,amr,amrnb,amrwb,asf,matroska,webm,avi,flv,mpeg,"
    "mpegts,ogg,ape,wv,tta,dsf,wav,w64,aiff,caf,au,mp3,flac"
)
# The first bytes of formats that libsndfile does not read, or reads with some codecs only.
_MAGIC = {
    b"\x1aE\xdf\xa3": "Matroska",
    b"0&\xb2u\x8ef\xcf\x11": "ASF",
    b"#!AMR": "AMR",
    b"FLV\x01": "FLV",
    b"\x0bw": "AC-3",
    b"\x7f\xfe\x80\x01": "DTS",
    b"\x00\x00\x01\xba": "MPEG",
    b"OggS": "Ogg",
    b"MAC ": "APE",
    b"wvpk": "WavPack",
    b"TTA1": "TTA",
    b"DSD ": "DSF",
    b"caff": "CAF",
}
# Codecs of WAV files: those that only damage can keep libsndfile from reading, and others.
_PCM_TAGS = (1, 3, 0xFFFE)
_LAST_TAG, _OTHER_TAGS = 0x2000, (0x5346,)  # above, few numbers have a meaning: likely damage
_HEAD_BYTES = 512
_SETTING = "AST_KERAS_FFMPEG"
# Each block must arrive within this time: a decoder that stalls, or trickles, is killed.
_BLOCK_BYTES = 2**20
_STALL_SECONDS = 60.0
_MAX_VALUES = 2**31  # 12 hours at 48 kHz, of one channel
_END_SECONDS = 5.0
_MAX_MESSAGES = 20
_MAX_MESSAGE_BYTES = 500
_PREFIX = re.compile(r"^\[[^]]* @ [^]]*\]\s*|^file:.*: (?=[^:]*$)")
_INPUT_ERROR = "Invalid data found when processing input"
_AU_HEADER = ">4s5I"  # magic, bytes of the header, of the data, codec, rate, channels


def ffmpeg_command() -> str | None:
    """Returns the path of the ffmpeg command, or None if there is none or it is switched off.

    Raises:
        ArgumentError: If `AST_KERAS_FFMPEG` names a command that does not exist.
    """
    return _find_command(os.environ.get(_SETTING) or "ffmpeg")


@functools.cache
def _find_command(setting: str) -> str | None:
    if setting.lower() in ("off", "0"):
        return None
    command = shutil.which(setting)
    if command is None and setting != "ffmpeg":
        raise ArgumentError(
            "The variable must be the path of an ffmpeg command, or off. "
            f"Received: {_SETTING}={setting}"
        )
    return command


def ffmpeg_format(source: Any) -> str | None:
    """Returns the name of the format of a source that ffmpeg may read and libsndfile may not.

    Args:
        source: Path of a file, or the bytes of a whole file.

    Returns:
        A name such as "MP4", found in the first bytes, or else in the suffix; or None.

    Example:

    >>> ffmpeg_format(b"\\0\\0\\0\\x1cftypM4A "), ffmpeg_format(b"RIFF....WAVEfmt ")
    ('MP4', None)
    """
    if isinstance(source, (str, os.PathLike)):
        path = os.fsdecode(source)
        if not os.path.isfile(path):  # a pipe would be consumed
            return None
        with contextlib.suppress(OSError), open(path, "rb") as file:
            suffix = pathlib.PurePath(path).suffix.lower()
            named = suffix[1:].upper() if suffix in FFMPEG_SUFFIXES else None
            return _format_of(file.read(_HEAD_BYTES)) or named
        return None
    return _format_of(bytes(source[:_HEAD_BYTES]))


def _format_of(head: bytes) -> str | None:
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "MP4"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "AVI"
    if head[:4] == b"RIFF" and head[8:16] == b"WAVEfmt " and len(head) > 22:
        tag = struct.unpack_from("<H", head, 20)[0]
        is_known = tag not in _PCM_TAGS and (tag <= _LAST_TAG or tag in _OTHER_TAGS)
        return f"WAV of codec 0x{tag:X}" if is_known else None
    if head[:4] == b"FORM" and head[8:12] == b"AIFC":
        return "AIFC"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "AAC"
    if (head[:1] == b"G" and head[188:189] == b"G") or (
        head[4:5] == b"G" and head[196:197] == b"G"
    ):
        return "MPEG-TS"
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


class FfmpegFile:
    """A file that ffmpeg decodes, with the interface of `soundfile.SoundFile`.

    It is read from start to end: a seek forward decodes and drops what is skipped, so that a span
    equals that part of the whole file to the bit.

    Args:
        source: Path of a file, or the bytes of a whole file.
        format: Name of its format, from `ffmpeg_format`.
        name: Name of the source in messages.
        notes: List to which a warning is appended when the end is reached, if ffmpeg found damage.

    Attributes:
        samplerate: Sample rate in Hz.
        channels: Number of channels.
        frames: 2**63 - 1, since the length is not known before the end.
        format: As given.
        subtype: "FFMPEG".
        extra_info: Empty.

    Raises:
        AudioDecodeError: If there is no ffmpeg, or it finds no audio.
    """

    frames = 2**63 - 1
    subtype = "FFMPEG"
    extra_info = ""

    def __init__(self, source: Any, format: str, name: str, notes: list[str]) -> None:
        self.format, self._name, self._notes = format, name, notes
        command = ffmpeg_command()
        if command is None:
            raise AudioDecodeError(
                f"The audio cannot be decoded without ffmpeg (its format is {format}): install "
                "ffmpeg, or convert the file where it is with ffmpeg -i FILE NAME.wav. "
                f"Received: source={name}"
            )
        self._values = 0
        self._messages: list[str] = []
        self._is_late = self._is_at_end = False
        self._process = _start(command, source, name)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        try:
            header = self._receive(struct.calcsize(_AU_HEADER))
            if len(header) < struct.calcsize(_AU_HEADER):
                raise self._failure()
            magic, size, _, _, self.samplerate, self.channels = struct.unpack(_AU_HEADER, header)
            if magic != b".snd" or not (self.samplerate and self.channels):
                raise self._failure()
            self._receive(size - len(header))
        except BaseException:
            self.close()
            raise

    def seekable(self) -> bool:
        """Returns True: a seek forward is possible."""
        return True

    def seek(self, frame: int) -> int:
        """Decodes up to a frame that was not read yet, and returns its number or the last one."""
        position: int = self._values // self.channels
        while position < frame:
            step = min(frame - position, max(1, _BLOCK_BYTES // (4 * self.channels)))
            if not len(self.read(step)):
                break
            position = self._values // self.channels
        return position

    def read(
        self,
        frames: int = -1,
        dtype: str = "float32",
        always_2d: bool = True,
        out: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Returns the next frames, fewer at the end of the file.

        Args:
            frames: Number of frames; less than 0 for all.
            dtype: Ignored: all samples are float32.
            always_2d: Ignored: all results have two axes.
            out: Array to read to, instead of `frames`.

        Returns:
            float32 `[frames, channels]`.

        Raises:
            AudioDecodeError: If ffmpeg stalls or fails, or the sound is longer than 2**31 values.
        """
        wanted = len(out) if out is not None else frames
        limit = 4 * (_MAX_VALUES - self._values)
        num_bytes = limit + 4 if wanted < 0 else min(wanted * 4 * self.channels, limit + 4)
        data = self._receive(num_bytes)
        if len(data) > limit:
            raise self._error("it decodes to more than 12 hours at 48 kHz", "split it")
        num_frames = len(data) // (4 * self.channels)
        self._values += num_frames * self.channels
        if len(data) < num_bytes:
            self._finish()
        samples = np.frombuffer(data, ">f4", num_frames * self.channels).astype(np.float32)
        samples = samples.reshape(-1, self.channels)
        if out is None:
            return samples
        out[: len(samples)] = samples
        return out[: len(samples)]

    def close(self) -> None:
        """Ends ffmpeg."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> FfmpegFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self, num_bytes: int) -> bytes:
        """Returns the next bytes from ffmpeg, fewer at the end."""
        pieces, left = [], num_bytes
        assert self._process.stdout is not None
        while left:
            timer = threading.Timer(_STALL_SECONDS, self._stop)
            timer.daemon = True
            timer.start()
            piece = self._process.stdout.read(min(left, _BLOCK_BYTES))
            timer.cancel()
            if self._is_late:
                raise self._error(f"ffmpeg stalled for {_STALL_SECONDS:g} s")
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def _stop(self) -> None:
        self._is_late = True
        self._process.kill()

    def _listen(self) -> None:
        """Keeps the first of ffmpeg's messages. All are read, since a full pipe would block it."""
        assert self._process.stderr is not None
        while line := self._process.stderr.readline(_MAX_MESSAGE_BYTES):
            if len(self._messages) < _MAX_MESSAGES:
                self._messages.append(line.decode("utf-8", "replace").strip())

    def _finish(self) -> None:
        """Reports at the end of the file what ffmpeg found wrong."""
        if self._is_at_end:
            return
        self._is_at_end = True
        reason = self._reason()
        if not self._values:
            raise self._error(reason or "it contains no samples")
        if reason or self._process.returncode:
            self._notes.append(
                f"The file is damaged or cut short (ffmpeg: {reason or 'it failed'}): the "
                f"{self._values / self.channels / self.samplerate:.4g} s that can be decoded are "
                f"used. Fetch it again. Received: source={self._name}"
            )

    def _failure(self) -> AudioDecodeError:
        """Returns the error for a file that gave no audio."""
        reason = self._reason()
        if "matches no streams" in reason or "does not contain any stream" in reason:
            return self._error("it holds no audio stream", "exclude it")
        return self._error(f"ffmpeg: {reason or 'it failed without a message'}")

    def _reason(self) -> str:
        """Returns ffmpeg's first message once it has ended; "" if there is none."""
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._listener.join()
        message = self._messages[0] if self._messages else ""
        return _PREFIX.sub("", message).replace(_INPUT_ERROR, "it is damaged").rstrip(".")

    def _error(self, reason: str, fix: str = "fetch it again, or exclude it") -> AudioDecodeError:
        return AudioDecodeError(
            f"The audio cannot be decoded ({reason}; its format is {self.format}): {fix}. "
            f"Received: source={self._name}"
        )


def _start(command: str, source: Any, name: str) -> subprocess.Popen[bytes]:
    """Starts ffmpeg, which writes an AU file of 32-bit floats to its standard output."""
    with contextlib.ExitStack() as stack:
        stdin: int | BinaryIO = subprocess.DEVNULL
        if isinstance(source, (str, os.PathLike)):
            address = f"file:{os.fsdecode(source)}"  # so that no name is an option or an address
        elif hasattr(os, "memfd_create"):  # bytes in which ffmpeg can seek: a pipe has no seek
            stdin = stack.enter_context(open(os.memfd_create("sound"), "w+b"))
            stdin.write(source)
            stdin.flush()
            address = "file:/dev/stdin"
        else:
            raise AudioDecodeError(
                "Bytes of this format are decoded on Linux only: pass the path of a file. "
                f"Received: source={name}"
            )
        arguments = [
            *("-nostdin", "-hide_banner", "-v", "error", "-threads", "1"),
            *("-protocol_whitelist", "file,pipe", "-format_whitelist", _FORMATS, "-i", address),
            *("-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "pipe:1"),
        ]
        try:
            return subprocess.Popen(
                [command, *arguments],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise AudioDecodeError(
                f"ffmpeg cannot be started ({error.strerror}): check it, or set {_SETTING}. "
                f"Received: command={command}, source={name}"
            ) from error
