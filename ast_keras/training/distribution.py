"""Devices and workers: distribution strategy, input per device, and agreement between workers.

A worker is a process with its own devices, usually one per machine. All workers run the same
program, and the first one (the chief) also writes the files. TensorFlow's environment variable
`TF_CONFIG` lists the workers and gives the index of the worker that the process is:

    TF_CONFIG='{"cluster": {"worker": ["host0:12345", "host1:12345"]},
                "task": {"type": "worker", "index": 0}}'
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from absl import logging

from ast_keras.data.pipeline import Pipeline
from ast_keras.errors import ArgumentError, WorkerError

_START_SECONDS = 600.0  # time for all workers to start
_CPUINFO = pathlib.Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})  # Linux's names
# Errors that TensorFlow raises when a worker is lost. Each depends on the operation that waited.
_LOST_WORKER_ERRORS = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)

# --- Strategy ---


def make_strategy() -> tf.distribute.Strategy:
    """Returns the strategy for all workers of `TF_CONFIG`; without it, for all visible GPUs.

    With several workers it waits for them, and must be called before anything is computed in
    TensorFlow. Later calls return the same object, because two strategies on the same devices
    would receive each other's messages.

    Raises:
        ArgumentError: If `TF_CONFIG` is malformed, or TensorFlow was used before.
        WorkerError: If another worker does not start.

    Example:

    >>> make_strategy().num_replicas_in_sync  # on a CPU, or on one GPU
    1
    """
    return _strategy(os.environ.get("TF_CONFIG", ""))


@functools.cache
def _strategy(tf_config: str) -> tf.distribute.Strategy:
    addresses, index = read_tf_config(tf_config)
    if len(addresses) > 1:
        return _multi_worker_strategy(addresses, index)
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def _multi_worker_strategy(addresses: list[str], index: int) -> tf.distribute.Strategy:
    await_workers(addresses, index)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        if "program startup" not in str(error):
            raise
        raise ArgumentError(
            "With several workers in TF_CONFIG the strategy must be made before TensorFlow is used "
            "for anything else. Received: make_strategy() called too late"
        ) from None
    except tf.errors.OpError as error:
        raise WorkerError(_lost_worker(index, len(addresses))) from error


def read_tf_config(text: str) -> tuple[list[str], int]:
    """Returns the addresses of all workers, the chief's first, and the index of this worker.

    Args:
        text: Value of `TF_CONFIG`. Empty for a single process.

    Raises:
        ArgumentError: If the text is malformed.

    Example:

    >>> read_tf_config('{"cluster": {"worker": ["a:1", "b:2"], "chief": ["c:3"]},'
    ...                ' "task": {"type": "worker", "index": 1}}')
    (['c:3', 'a:1', 'b:2'], 2)
    """
    try:
        config = json.loads(text or "{}")
        cluster, task = config.get("cluster", {}), config.get("task", {})
        tasks = [(job, i) for job in ("chief", "worker") for i in range(len(cluster.get(job, [])))]
        if not set(cluster) <= {"chief", "worker"}:
            raise KeyError(", ".join(set(cluster) - {"chief", "worker"}))
        addresses = [cluster[job][i] for job, i in tasks]
        index = tasks.index((task["type"], int(task["index"]))) if tasks else 0
        ports = [int(address.rpartition(":")[2]) for address in addresses]
    except (AttributeError, KeyError, TypeError, ValueError):
        ports = None
    if ports is None or not all(ports):
        raise ArgumentError(
            'TF_CONFIG must read {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
            f'"worker", "index": N}}}}. Received: TF_CONFIG={text!r}'
        ) from None
    return addresses, index


def await_workers(addresses: list[str], index: int, seconds: float = _START_SECONDS) -> None:
    """Waits until all workers have started, for minutes. TensorFlow would wait for an hour.

    Args:
        addresses: "host:port" of each worker.
        index: Index of this worker.
        seconds: Maximum time to wait.

    Raises:
        WorkerError: If a worker has not started by then, or this worker's port is in use.
    """
    missing = [address for i, address in enumerate(addresses) if i != index]
    started, logged = time.monotonic(), False
    with _listening(addresses[index], len(addresses)):  # the other workers check this port
        while missing := [address for address in missing if not _is_listening(address)]:
            waited = time.monotonic() - started
            if waited > seconds:
                raise WorkerError(
                    f"{len(missing)} of {len(addresses)} workers did not start within "
                    f"{seconds:.0f} seconds: start the same command on all machines of TF_CONFIG. "
                    f"Received: no worker at {', '.join(missing)}"
                )
            if waited > 5 and not logged:
                logging.warning("waiting for the workers at %s", ", ".join(missing))
                logged = True
            time.sleep(0.2)


def _listening(address: str, backlog: int) -> socket.socket:
    dual_stack = socket.has_dualstack_ipv6()
    port = int(address.rpartition(":")[2])
    try:
        return socket.create_server(
            ("", port),
            family=socket.AF_INET6 if dual_stack else socket.AF_INET,
            backlog=backlog,
            dualstack_ipv6=dual_stack,
        )
    except OSError as error:
        raise WorkerError(
            f"This worker's port in TF_CONFIG must be free: {error.strerror}. Received: {address}"
        ) from None


def _is_listening(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
            return True
    except OSError:
        return False


# --- Input ---


def distribute(
    strategy: tf.distribute.Strategy,
    pipeline: Pipeline,
    first_step: int,
    last_step: int,
    parts: int = 1,
) -> Any:
    """Returns the batches of a pipeline, split over all devices in the order of their rows.

    Each worker decodes only the rows of its own devices. If a batch does not divide evenly, the
    last devices receive additional rows of weight zero.

    Args:
        strategy: A `tf.distribute.Strategy`.
        pipeline: A `Pipeline`.
        first_step: Index of the first batch.
        last_step: Index after the last batch.
        parts: The number of rows on each device is made a multiple of this number.

    Returns:
        A distributed data set of dictionaries, as `Pipeline.dataset` makes them.
    """

    def own_rows(context: tf.distribute.InputContext) -> Any:
        num_local = context.num_replicas_in_sync // context.num_input_pipelines
        rows = -(-pipeline.batch_size // (context.num_replicas_in_sync * parts)) * parts
        first = context.input_pipeline_id * num_local * rows
        dataset = pipeline.dataset(first_step, last_step, slice(first, first + num_local * rows))
        if num_local == 1 and rows == dataset.element_spec["weight"].shape[0]:
            return dataset

        def split(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return {name: _split(value, num_local, rows) for name, value in batch.items()}

        # One element for each device, in turn.
        return dataset.map(split).unbatch().prefetch(num_local)

    return strategy.distribute_datasets_from_function(own_rows)


def _split(values: tf.Tensor, groups: int, rows: int) -> tf.Tensor:
    """Returns `[up to groups * rows, ...]` as `[groups, rows, ...]`, filled up with zeros."""
    lack = groups * rows - values.shape[0]
    values = tf.pad(values, [[0, lack]] + [[0, 0]] * (len(values.shape) - 1))
    return tf.reshape(values, [groups, rows, *values.shape[1:]])


# --- Agreement ---


class Workers:
    """The processes that train together: one, or those of a `MultiWorkerMirroredStrategy`.

    Everything that waits for other workers (a step, an evaluation, every method here) must be
    called by all of them in the same order. A value that differs between processes, such as a clock
    or a signal, must therefore be gathered before it decides anything.

    Args:
        strategy: A `tf.distribute.Strategy`.

    Attributes:
        index: Index of this process; 0 is the chief.
        num_workers: Number of processes.

    Example:

    >>> Workers(tf.distribute.get_strategy()).gather(3, True).tolist()
    [[3.0, 1.0]]
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self.index, self.num_workers = 0, 1
        resolver = strategy.cluster_resolver
        jobs = resolver.cluster_spec().as_dict() if resolver is not None else {}
        if jobs:
            tasks = [(job, i) for job in ("chief", "worker") for i in range(len(jobs.get(job, [])))]
            self.index = tasks.index((resolver.task_type, resolver.task_id))
            self.num_workers = len(tasks)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files and prints progress."""
        return self.index == 0

    def gather(self, *numbers: float) -> npt.NDArray[np.float64]:
        """Returns the numbers of all workers, a float64 array `[num_workers, len(numbers)]`."""
        if self.num_workers == 1:
            return np.array([numbers], np.float64)
        values = self._strategy.experimental_distribute_values_from_function(
            lambda _: tf.constant([numbers], tf.float64)
        )
        with self.translate_errors():
            rows = self._gathered(values).numpy()
        rows = rows[:: len(rows) // self.num_workers]  # devices of a worker have equal rows
        return np.asarray(rows)

    @functools.cached_property
    def _gathered(self) -> Any:
        return tf.function(lambda values: self._strategy.gather(values, axis=0))

    def wait(self) -> None:
        """Waits until all workers have called this method."""
        self.gather(0.0)

    def all_equal(self, text: str) -> bool:
        """Returns whether all workers have the same text."""
        digest = hashlib.sha256(text.encode()).digest()
        numbers = self.gather(*(int.from_bytes(digest[i : i + 6], "big") for i in (0, 6)))
        return bool((numbers == numbers[0]).all())

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raises `WorkerError` instead of TensorFlow's errors after the loss of a worker."""
        try:
            yield
        except _LOST_WORKER_ERRORS as error:
            if self.num_workers == 1:
                raise
            raise WorkerError(_lost_worker(self.index, self.num_workers)) from error


def _lost_worker(index: int, num_workers: int) -> str:
    return (
        "Another worker was lost; its own output gives the reason. All workers stop. The same "
        "command on all workers goes on from the last checkpoint. Received: the loss of one of "
        f"{num_workers} workers, noticed by worker {index}"
    )


# --- Precision ---


def fast_precision() -> str:
    """Returns "mixed_bfloat16" if all devices compute with bfloat16, otherwise "float32".

    GPUs do from compute capability 8.0 on (NVIDIA Ampere). Processors are looked up in Linux's
    list of their features; on other systems the answer is "float32".
    """
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "mixed_bfloat16" if processor_has_bfloat16() else "float32"
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    able = all(detail.get("compute_capability", (0, 0)) >= (8, 0) for detail in details)
    return "mixed_bfloat16" if able else "float32"


def processor_has_bfloat16(cpuinfo: pathlib.Path = _CPUINFO) -> bool:
    """Returns whether the processor has instructions for products of bfloat16 matrices.

    Without them bfloat16 is slower than float32: two thirds of its speed on a third-generation AMD
    EPYC.

    Args:
        cpuinfo: Path of Linux's list of processors.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return any(not _BFLOAT16_FLAGS.isdisjoint(line.split()) for line in flags)
