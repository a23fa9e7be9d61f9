"""The order of examples in an epoch, as a pure function of (seed, epoch, position).

No draw depends on an earlier one, so that a run resumes at any step. Weighted sampling draws a few
thousand examples at a time, so that an epoch of two million starts without a delay.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ast_keras.data.packed import PackedTargets
from ast_keras.errors import ArgumentError

# Streams of random numbers, one for each purpose.
ORDER, EXAMPLE, DRAWS, BATCHES = 1, 2, 3, 4

_BLOCK_DRAWS = 4096
_SORTED_BATCHES = 32  # batches sorted together; more would pad less and be less random
_CACHED_BLOCKS = 4  # more than one: prefetched batches may be in the next block or epoch

Array = npt.NDArray[Any]


def generator(seed: int, stream: int, epoch: int, position: int = 0) -> np.random.Generator:
    """Returns the random generator of one position in a run.

    Args:
        seed: Seed of the run.
        stream: Purpose of the draws: `ORDER`, `EXAMPLE`, `DRAWS` or `BATCHES`.
        epoch: Zero-based epoch.
        position: Zero-based position in the epoch.

    Example:

    >>> int(generator(1, 2, epoch=0, position=5).integers(1000))
    676
    """
    key = np.array([seed % 2**64, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, epoch, position]))


class Sampling(Protocol):
    """The order of examples in an epoch."""

    def index(self, epoch: int, position: int) -> int:
        """Returns the index of the example at one position of an epoch."""

    def order(self, epoch: int) -> Array:
        """Returns the indices of all examples of an epoch, int64 `[examples]`."""


class InOrder:
    """Gives every example once, in the order of the split.

    Example:

    >>> InOrder(3).order(epoch=5).tolist()
    [0, 1, 2]
    """

    def __init__(self, num_examples: int) -> None:
        self.num_examples = num_examples

    def index(self, epoch: int, position: int) -> int:
        return range(self.num_examples)[position]

    def order(self, epoch: int) -> Array:
        return np.arange(self.num_examples)


class Shuffled:
    """Gives every example once, in a different random order in each epoch.

    Example:

    >>> sorted(Shuffled(4, seed=1).order(epoch=0).tolist())
    [0, 1, 2, 3]
    """

    def __init__(self, num_examples: int, seed: int) -> None:
        self.num_examples = num_examples
        self.seed = seed
        self._orders: dict[int, Array] = {}
        self._lock = threading.Lock()

    def index(self, epoch: int, position: int) -> int:
        return int(self.order(epoch)[position])

    def order(self, epoch: int) -> Array:
        with self._lock:
            if epoch not in self._orders:
                rng = generator(self.seed, ORDER, epoch)
                self._orders = {
                    **{e: o for e, o in self._orders.items() if e == epoch - 1},
                    epoch: rng.permutation(self.num_examples),
                }
            return self._orders[epoch]


class Weighted:
    """Draws examples with replacement, with probabilities proportional to their weights.

    An epoch has as many draws as there are examples. An example may be drawn several times or not
    at all; one of weight 0 is never drawn.

    Args:
        weights: Weight of each example, not negative.
        seed: Seed of the draws.

    Raises:
        ArgumentError: If no weight is positive, or one is negative or not finite.

    Reference:
        The original draws with PyTorch's `WeightedRandomSampler(replacement=True)`.

    Example:

    >>> set(Weighted([0.0, 2.0, 1.0], seed=1).order(epoch=0).tolist()) <= {1, 2}
    True
    """

    def __init__(self, weights: npt.ArrayLike, seed: int) -> None:
        weights = np.asarray(weights, np.float64)
        if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.max() > 0):
            raise ArgumentError(
                "Sampling weights must be finite and not negative, and one must be positive: "
                "weighted sampling needs labels. Without labels set sampling='shuffled' (in a "
                "recipe data.sampling=shuffled). "
                f"Received: weights from {weights.min()} to {weights.max()}"
            )
        self.seed = seed
        self.num_examples = len(weights)
        self._sums = np.cumsum(weights)
        self._blocks: dict[tuple[int, int], Array] = {}
        self._lock = threading.Lock()

    def index(self, epoch: int, position: int) -> int:
        block, place = divmod(range(self.num_examples)[position], _BLOCK_DRAWS)
        with self._lock:
            draws = self._blocks.get((epoch, block))
            if draws is None:
                draws = self._blocks[epoch, block] = self._draw(epoch, block)
                if len(self._blocks) > _CACHED_BLOCKS:
                    del self._blocks[next(iter(self._blocks))]
        return int(draws[place])

    def order(self, epoch: int) -> Array:
        num_blocks = -(-self.num_examples // _BLOCK_DRAWS)
        draws = [self._draw(epoch, block) for block in range(num_blocks)]
        return np.concatenate(draws)[: self.num_examples]

    def _draw(self, epoch: int, block: int) -> Array:
        # This is below the total even after rounding: `random` returns at most 1 - 2**-53.
        places = generator(self.seed, DRAWS, epoch, block).random(_BLOCK_DRAWS) * self._sums[-1]
        draws: Array = np.searchsorted(self._sums, places, side="right")
        return draws


class ByLength:
    """Groups examples of similar length into batches, and keeps the order of the batches random.

    Groups of 32 batches are taken in the order of another sampling, sorted by length, cut into
    batches, and the batches shuffled. Every example is used as often as by the other sampling. The
    last, partial batch of an epoch is not sorted.

    Args:
        sampling: Sampling that gives the order to start from.
        lengths: Function that returns the length of every example; called once, when the first
            order is needed.
        batch_size: Number of examples in a batch.
        seed: Seed of the order of the batches.

    Example:

    >>> lengths = np.array([9, 1, 9, 1, 9, 1])
    >>> by_length = ByLength(Shuffled(6, seed=1), lambda: lengths, batch_size=3, seed=1)
    >>> batches = by_length.order(epoch=0).reshape(2, 3)
    >>> sorted(tuple(sorted(batch)) for batch in batches.tolist())
    [(0, 2, 4), (1, 3, 5)]
    """

    def __init__(
        self, sampling: Sampling, lengths: Callable[[], Array], batch_size: int, seed: int
    ) -> None:
        self.sampling = sampling
        self.batch_size = batch_size
        self.seed = seed
        self._lengths = lengths
        self._known_lengths: Array | None = None
        self._orders: dict[int, Array] = {}
        self._lock = threading.Lock()

    def index(self, epoch: int, position: int) -> int:
        with self._lock:
            if epoch not in self._orders:
                kept = {e: o for e, o in self._orders.items() if e == epoch - 1}
                self._orders = {**kept, epoch: self.order(epoch)}
            return int(self._orders[epoch][position])

    def order(self, epoch: int) -> Array:
        if self._known_lengths is None:
            self._known_lengths = self._lengths()
        order = self.sampling.order(epoch)
        full = len(order) // self.batch_size * self.batch_size
        rng = generator(self.seed, BATCHES, epoch)
        parts = []
        for first in range(0, full, _SORTED_BATCHES * self.batch_size):
            part = order[first : min(first + _SORTED_BATCHES * self.batch_size, full)]
            part = part[np.argsort(self._known_lengths[part], kind="stable")]
            parts.append(rng.permutation(part.reshape(-1, self.batch_size)).ravel())
        return np.concatenate([*parts, order[full:]])


def balanced_class_weights(targets: Sequence[tuple[int, ...]], num_classes: int) -> Array:
    """Returns the loss weight of each class, in inverse proportion to its number of examples.

    The mean weight of the examples is 1, so that the learning rate need not change. A class without
    examples has weight 0.

    Args:
        targets: The one label index of each example.
        num_classes: Number of classes.

    Returns:
        Weights, float64 `[classes]`.

    Raises:
        ArgumentError: If an example has no label or several.

    Example:

    >>> balanced_class_weights([(0,), (0,), (0,), (1,)], num_classes=2).round(3).tolist()
    [0.667, 2.0]
    """
    rows = PackedTargets.pack(targets).rows
    if len(rows.lengths) and not (rows.lengths == 1).all():
        raise ArgumentError(
            "Class weights need exactly one label for each example: with several labels (or none) "
            'use sampling="weighted" (in a recipe data.sampling=weighted). Received: examples with '
            f"{rows.lengths.min()} to {rows.lengths.max()} labels"
        )
    counts = np.bincount(rows.flat(), minlength=num_classes)
    present = np.count_nonzero(counts)
    weights: Array = np.divide(
        len(rows.lengths), present * counts, out=np.zeros(num_classes), where=counts > 0
    )
    return weights


def clip_weights(targets: Sequence[tuple[int, ...]], num_classes: int) -> Array:
    """Returns the sampling weight of each example, which is larger for examples with rare labels.

    The weight of an example is the sum over its labels of `1000 / (count + 0.01)`, where `count` is
    the number of examples with the label. An example without labels has weight 0.

    Args:
        targets: Label indices of each example.
        num_classes: Number of labels.

    Returns:
        Weights, float64 `[examples]`.

    Reference:
        `gen_weight_file.py` of https://github.com/YuanGongND/ast.

    Example:

    >>> clip_weights([(0,), (0, 1), ()], num_classes=2).round(1).tolist()
    [497.5, 1487.6, 0.0]
    """
    rows = PackedTargets.pack(targets).rows
    labels, lengths = rows.flat(), rows.lengths
    of_label = 1000.0 / (np.bincount(labels, minlength=num_classes) + 0.01)
    examples = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    weights: Array = np.bincount(examples, weights=of_label[labels], minlength=len(lengths))
    return weights
