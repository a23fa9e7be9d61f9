"""Keeps messages of libmpg123 about damaged MP3 files from standard error.

libmpg123 prints with C's `stderr`, and libsndfile does not let callers turn that off. While an MP3
is decoded, that variable (glibc's) points to a file in memory. Afterwards the lines of others are
written to standard error, so that messages of TensorFlow in other threads appear, too. Output of
Python does not use the variable. With other C libraries nothing is changed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

import soundfile

_MESSAGE = re.compile(
    rb"^(?:\[[^\n]*libmpg123|Note: |Warning: (?:Xing|Encountered|Big change))[^\n]*\n|^\n",
    re.MULTILINE,
)
_lock = threading.Lock()
_num_decoding = 0


class Mp3File(soundfile.SoundFile):  # type: ignore[misc]
    """An MP3 file whose decoder prints nothing, and that is read from its beginning only."""

    def __init__(self, file: Any) -> None:
        with _hidden_messages():
            super().__init__(file)

    def seekable(self) -> bool:
        """Returns False, so that `read` does not seek: libmpg123 loses bits of earlier frames."""
        return False

    def read(self, *args: Any, **kwargs: Any) -> Any:
        """Reads samples as `SoundFile.read` does."""
        with _hidden_messages():
            return super().read(*args, **kwargs)


@contextlib.contextmanager
def _hidden_messages() -> Iterator[None]:
    global _num_decoding
    stderr = _c_stderr()
    if stderr is None:
        yield
        return
    with _lock:
        _num_decoding += 1
        if _num_decoding == 1:
            stderr.divert()
    try:
        yield
    finally:
        with _lock:
            _num_decoding -= 1
            if _num_decoding == 0:
                stderr.restore()


class _CStderr:
    """The variable `stderr` of the C library."""

    def __init__(self) -> None:
        import ctypes

        libc = ctypes.CDLL(None)
        libc.fdopen.restype = ctypes.c_void_p
        libc.setbuf.argtypes = ctypes.c_void_p, ctypes.c_void_p
        self._variable = ctypes.c_void_p.in_dll(libc, "stderr")
        self._original = self._variable.value
        self._descriptor = os.memfd_create("stderr")
        self._file = libc.fdopen(self._descriptor, b"a")
        libc.setbuf(self._file, None)
        os.register_at_fork(after_in_child=self._after_fork)

    def divert(self) -> None:
        self._variable.value = self._file

    def restore(self) -> None:
        self._variable.value = self._original
        size = os.fstat(self._descriptor).st_size
        if size:
            text = os.pread(self._descriptor, size, 0)
            os.ftruncate(self._descriptor, 0)
            os.write(2, _MESSAGE.sub(b"", text))

    def _after_fork(self) -> None:
        global _lock, _num_decoding
        _lock, _num_decoding = threading.Lock(), 0
        self._variable.value = self._original
        _c_stderr.cache_clear()  # the file in memory is the parent's


@functools.cache
def _c_stderr() -> _CStderr | None:
    try:
        return _CStderr()
    except (OSError, AttributeError, ValueError, TypeError):  # not Linux, or not glibc
        return None
