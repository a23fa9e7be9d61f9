"""Devices and workers: which there are, what each of them reads, what they decide together.

A worker is a process with its own devices, mostly one per machine. All workers run the same
program; the first one also writes the files. How many there are, and which one a process is, says
the environment variable `TF_CONFIG`, as everywhere in TensorFlow:

    TF_CONFIG='{"cluster": {"worker": ["host0:12345", "host1:12345"]},
                "task": {"type": "worker", "index": 0}}'
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import socket
import time

import numpy as np
import tensorflow as tf
from absl import logging

from ast_keras.errors import ArgumentError, WorkerError

_MEETING_SECONDS = 600.0  # for all workers to come
# What TensorFlow makes of a worker that is gone, depending on who is doing what at that moment.
_GONE = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)


def make_strategy() -> tf.distribute.Strategy:
    """Returns the strategy for all workers of `TF_CONFIG`, or for all visible GPUs without it.

    With several workers it waits for them, and must be called before anything else is computed in
    TensorFlow. Later calls return the same object: two strategies on the same devices would take
    each other's messages for their own.

    Raises:
      ValueError: If `TF_CONFIG` is malformed, or TensorFlow was used before.
      WorkerError: If the other workers do not come.

    Example:

    >>> make_strategy().num_replicas_in_sync  # one processor, or one GPU
    1
    """
    return _strategy(os.environ.get("TF_CONFIG", ""))


@functools.cache
def _strategy(tf_config):
    addresses, index = _read_tf_config(tf_config)
    if len(addresses) > 1:
        return _multi_worker_strategy(addresses, index)
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def _multi_worker_strategy(addresses, index):
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
        raise WorkerError(_lost(index, len(addresses))) from error


def _read_tf_config(text):
    """Returns the workers' addresses, the one that writes first, and which of them this is."""
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


def await_workers(addresses, index, seconds=_MEETING_SECONDS):
    """Waits until all workers have started, so that TensorFlow need not (it would for an hour).

    Args:
      addresses: "host:port" of each worker.
      index: Which of them this process is.
      seconds: How long to wait.

    Raises:
      WorkerError: If one has not come by then, or this one's port is taken.
    """
    missing = [address for i, address in enumerate(addresses) if i != index]
    began, said = time.monotonic(), False
    with _listening(addresses[index], len(addresses)):  # as the others wait for this one
        while missing := [address for address in missing if not _listens(address)]:
            waited = time.monotonic() - began
            if waited > seconds:
                raise WorkerError(
                    f"{len(missing)} of {len(addresses)} workers did not start within "
                    f"{seconds:.0f} seconds: start the same command on all machines of TF_CONFIG. "
                    f"Received: nobody at {', '.join(missing)}"
                )
            if waited > 5 and not said:
                logging.warning("waiting for the workers at %s", ", ".join(missing))
                said = True
            time.sleep(0.2)


def _listening(address, backlog):
    both = socket.has_dualstack_ipv6()
    port = int(address.rpartition(":")[2])
    try:
        return socket.create_server(
            ("", port),
            family=socket.AF_INET6 if both else socket.AF_INET,
            backlog=backlog,
            dualstack_ipv6=both,
        )
    except OSError as error:
        raise WorkerError(
            f"This worker's port in TF_CONFIG must be free: {error.strerror}. Received: {address}"
        ) from None


def _listens(address):
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
            return True
    except OSError:
        return False


def distribute(strategy, pipeline, first_step, last_step, parts=1):
    """Returns a pipeline's batches, split over the strategy's devices in the order of their rows.

    Each worker makes, and decodes, only the rows of its own devices. Where a batch does not divide
    evenly, shares are filled up with rows of weight zero.

    Args:
      strategy: A `tf.distribute.Strategy`.
      pipeline: A `Pipeline`.
      first_step: First batch.
      last_step: Behind the last batch.
      parts: Each device's share can be divided by this.
    """

    def own_rows(context):
        local = context.num_replicas_in_sync // context.num_input_pipelines
        rows = -(-pipeline.batch_size // (context.num_replicas_in_sync * parts)) * parts
        first = context.input_pipeline_id * local * rows
        dataset = pipeline.dataset(first_step, last_step, slice(first, first + local * rows))
        if local == 1 and rows == dataset.element_spec["weight"].shape[0]:
            return dataset

        def split(batch):
            return {name: _split(value, local, rows) for name, value in batch.items()}

        # One element for each device, in turn.
        return dataset.map(split).unbatch().prefetch(local)

    return strategy.distribute_datasets_from_function(own_rows)


def _split(values, groups, rows):
    """Returns `[up to groups * rows, ...]` as `[groups, rows, ...]`, filled up with zeros."""
    lack = groups * rows - values.shape[0]
    values = tf.pad(values, [[0, lack]] + [[0, 0]] * (len(values.shape) - 1))
    return tf.reshape(values, [groups, rows, *values.shape[1:]])


class Workers:
    """The processes that train together: one, or those of a `MultiWorkerMirroredStrategy`.

    Whatever waits for the other workers (a step, an evaluation, every method here) must be called
    by all of them, in the same order. So what depends on one process alone, such as a clock or a
    signal, decides nothing before it was gathered.

    Args:
      strategy: A `tf.distribute.Strategy`.

    Attributes:
      index: Which of them this process is; the first one writes.
      count: How many there are.

    Example:

    >>> Workers(tf.distribute.get_strategy()).gather(3, True).tolist()
    [[3.0, 1.0]]
    """

    def __init__(self, strategy):
        self._strategy = strategy
        self.index, self.num_workers = 0, 1
        resolver = strategy.cluster_resolver
        jobs = resolver.cluster_spec().as_dict() if resolver is not None else {}
        if jobs:
            tasks = [(job, i) for job in ("chief", "worker") for i in range(len(jobs.get(job, [])))]
            self.index = tasks.index((resolver.task_type, resolver.task_id))
            self.num_workers = len(tasks)

    @property
    def is_chief(self):
        """Whether this process writes the files and the lines to watch."""
        return self.index == 0

    def gather(self, *numbers):
        """Returns the numbers of all workers, float64 `[workers, numbers]`."""
        if self.num_workers == 1:
            return np.array([numbers], np.float64)
        values = self._strategy.experimental_distribute_values_from_function(
            lambda _: tf.constant([numbers], tf.float64)
        )
        with self.translate_errors():
            rows = self._gathered(values).numpy()
        return rows[:: len(rows) // self.num_workers]  # every device of a worker says the same

    @functools.cached_property
    def _gathered(self):
        return tf.function(lambda values: self._strategy.gather(values, axis=0))

    def wait(self):
        """Waits until all workers have come to this place."""
        self.gather(0.0)

    def all_equal(self, text):
        """Returns whether all workers have the same text."""
        digest = hashlib.sha256(text.encode()).digest()
        numbers = self.gather(*(int.from_bytes(digest[i : i + 6], "big") for i in (0, 6)))
        return bool((numbers == numbers[0]).all())

    @contextlib.contextmanager
    def translate_errors(self):
        """Raises `WorkerError` instead of what TensorFlow makes of a worker that is gone."""
        try:
            yield
        except _GONE as error:
            if self.num_workers == 1:
                raise
            raise WorkerError(_lost(self.index, self.num_workers)) from error


def _lost(index, count):
    return (
        "Another worker was lost, its own output says why; all stop. The same command on all "
        f"workers goes on from the last checkpoint. Received: an end of {count} workers, noticed "
        f"by worker {index}"
    )
