"""TensorFlow's import without the lines that it prints on every machine."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import pathlib
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import NoReturn

# Printed by healthy installations, some with the severity of an error. TF_CPP_MIN_LOG_LEVEL cannot
# hide them without real errors: TensorFlow reads it once for the whole process.
_NOISE = (
    "Unable to register cu(FFT|DNN|BLAS) factory: .* has already been registered",
    "computation placer already registered",
    r"All log messages before absl::InitializeLog\(\) is called",
)
_NOISE_WITHOUT_GPU = (
    "Could not find cuda drivers on your machine",
    r"failed call to cuInit: .*UNKNOWN ERROR \(303\)",  # there is no driver
)
_NVIDIA_DRIVER = pathlib.Path("/dev/nvidiactl")


@contextlib.contextmanager
def quiet_tensorflow_import() -> Iterator[None]:
    """Removes known lines from standard error while TensorFlow is imported inside the block.

    Everything else is printed: other messages of the import, its errors, and all that TensorFlow
    prints later. With TF_CPP_MIN_LOG_LEVEL=0, which asks for all messages, nothing is removed.

    Example:

    >>> with quiet_tensorflow_import():
    ...     import tensorflow as tf
    """
    finder = _QuietFinder()
    if "tensorflow" not in sys.modules and os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0":
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)


class _QuietFinder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow as Python does, and has it executed inside `_without_noise`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_quietly(module: ModuleType) -> None:
                with _without_noise():
                    execute(module)
                    if not _NVIDIA_DRIVER.exists():
                        # Looks for GPUs, which TensorFlow otherwise does at the first operation.
                        module.config.list_physical_devices()

            spec.loader.exec_module = execute_quietly  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Lets a child process remove known lines from file descriptor 2 inside the block.

    The lines come from C++. A child also prints what this process writes just before it crashes,
    and never waits for Python's lock, which TensorFlow may hold while it writes.
    """
    if sys.stderr is None or not hasattr(os, "fork"):  # closed, or Windows
        yield
        return
    sys.stderr.flush()
    source, sink = os.pipe()
    child = os.fork()
    if not child:
        os.close(sink)
        _copy_without_noise(source)
    os.close(source)
    saved = os.dup(2)
    os.dup2(sink, 2)
    os.close(sink)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.waitpid(child, 0)


def _copy_without_noise(source: int) -> NoReturn:
    """Copies lines to file descriptor 2 until the source ends, then ends the process."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group of processes
            signal.signal(number, signal.SIG_IGN)
        noise = _NOISE if _NVIDIA_DRIVER.exists() else _NOISE + _NOISE_WITHOUT_GPU
        pattern = re.compile("|".join(noise).encode())
        with open(source, "rb") as lines:
            for line in lines:
                if not pattern.search(line):
                    os.write(2, line)
    finally:
        os._exit(0)
