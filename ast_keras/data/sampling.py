"""Which example stands where in an epoch, as a pure function of (seed, epoch, position).

Nothing is drawn one after the other, so a run resumes anywhere, and only a few thousand draws are
made at a time: an epoch of two million begins without a pause.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ast_keras.data.packed import PackedTargets
from ast_keras.errors import ArgumentError

ORDER, EXAMPLE, DRAWS, BATCHES = (
    1,
    2,
    3,
    4,
)  # streams of random numbers, never shared between purposes

_DRAWS_AT_ONCE = 4096
_SORTED_BATCHES = 32  # that are sorted together; more is less padding, and less random
_BLOCKS_KEPT = 4  # batches are made ahead in threads, some of them in the next block or epoch

Array = npt.NDArray[Any]


def generator(seed: int, stream: int, epoch: int, position: int = 0) -> np.random.Generator:
    """Returns the random generator of one place in a run.

    Example:

    >>> int(generator(1, 2, epoch=0, position=5).integers(1000))
    676
    """
    key = np.array([seed % 2**64, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, epoch, position]))


class Sampling(Protocol):
    """Says which example stands where in an epoch."""

    def index(self, epoch: int, position: int) -> int:
        """Returns the example at one place."""

    def order(self, epoch: int) -> Array:
        """Returns the examples of a whole epoch."""


class InOrder:
    """Shows every example once, in the order of the split.

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
    """Shows every example once, in an order that each epoch has for itself.

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
    """Draws examples with replacement: as many as there are, each in proportion to its weight.

    An example may come several times in an epoch, or not at all; one of weight 0 never comes.

    Args:
      weights: Of each example, not negative.
      seed: Decides the draws.

    Raises:
      ValueError: If no weight is positive, or one is negative or not finite.

    Reference: the original draws with PyTorch's `WeightedRandomSampler(replacement=True)`.

    Example:

    >>> set(Weighted([0.0, 2.0, 1.0], seed=1).order(epoch=0).tolist()) <= {1, 2}
    True
    """

    def __init__(self, weights: npt.ArrayLike, seed: int) -> None:
        weights = np.asarray(weights, np.float64)
        if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.max() > 0):
            raise ArgumentError(
                "Sampling weights must be finite and not negative, and one must be positive: "
                f"weighted sampling needs labels. Received: {weights.min()} to {weights.max()}"
            )
        self.seed = seed
        self.num_examples = len(weights)
        self._sums = np.cumsum(weights)
        self._blocks: dict[tuple[int, int], Array] = {}
        self._lock = threading.Lock()

    def index(self, epoch: int, position: int) -> int:
        block, place = divmod(range(self.num_examples)[position], _DRAWS_AT_ONCE)
        with self._lock:
            draws = self._blocks.get((epoch, block))
            if draws is None:
                draws = self._blocks[epoch, block] = self._draw(epoch, block)
                if len(self._blocks) > _BLOCKS_KEPT:
                    del self._blocks[next(iter(self._blocks))]
        return int(draws[place])

    def order(self, epoch: int) -> Array:
        num_blocks = -(-self.num_examples // _DRAWS_AT_ONCE)
        draws = [self._draw(epoch, block) for block in range(num_blocks)]
        return np.concatenate(draws)[: self.num_examples]

    def _draw(self, epoch: int, block: int) -> Array:
        # Below the sum of all even after rounding, for random numbers end at 1 - 2**-53.
        places = generator(self.seed, DRAWS, epoch, block).random(_DRAWS_AT_ONCE) * self._sums[-1]
        draws: Array = np.searchsorted(self._sums, places, side="right")
        return draws


class ByLength:
    """Puts examples of about the same length into one batch, in an order that is still random.

    Some dozens of batches are taken together in the order of another sampling, sorted by length,
    cut into batches, and these shuffled. Each example comes as often as without it; the batch that
    is not full is drawn like the others, but for the sorting.

    Args:
      sampling: Gives the order to start from.
      lengths: Returns the length of every example; called once, when the first order is asked for.
      batch_size: Examples per batch.
      seed: Decides the order of the batches.

    Example:

    >>> by_length = ByLength(Shuffled(6, seed=1), lambda: np.array([9, 1, 9, 1, 9, 1]), 3, seed=1)
    >>> sorted(tuple(sorted(batch)) for batch in by_length.order(epoch=0).reshape(2, 3).tolist())
    [(0, 2, 4), (1, 3, 5)]
    """

    def __init__(
        self, sampling: Sampling, lengths: Callable[[], Array], batch_size: int, seed: int
    ) -> None:
        self.sampling = sampling
        self.batch_size = batch_size
        self.seed = seed
        self._lengths = lengths
        self._known: Array | None = None
        self._orders: dict[int, Array] = {}
        self._lock = threading.Lock()

    def index(self, epoch: int, position: int) -> int:
        with self._lock:
            if epoch not in self._orders:
                kept = {e: o for e, o in self._orders.items() if e == epoch - 1}
                self._orders = {**kept, epoch: self.order(epoch)}
            return int(self._orders[epoch][position])

    def order(self, epoch: int) -> Array:
        if self._known is None:
            self._known = self._lengths()
        order = self.sampling.order(epoch)
        full = len(order) // self.batch_size * self.batch_size
        rng = generator(self.seed, BATCHES, epoch)
        parts = []
        for first in range(0, full, _SORTED_BATCHES * self.batch_size):
            part = order[first : min(first + _SORTED_BATCHES * self.batch_size, full)]
            part = part[np.argsort(self._known[part], kind="stable")]
            parts.append(rng.permutation(part.reshape(-1, self.batch_size)).ravel())
        return np.concatenate([*parts, order[full:]])


def clip_weights(targets: Sequence[tuple[int, ...]], num_classes: int) -> Array:
    """Returns how often each example is to be drawn, so that rare labels are heard more.

    An example weighs the sum over its labels of `1000 / (count + 0.01)`, where `count` is the
    number of examples with the label. One without labels weighs 0.

    Args:
      targets: Of each example the indices of its labels.
      num_classes: Number of labels.

    Output: float64 `[examples]`.

    Reference: `gen_weight_file.py` of https://github.com/YuanGongND/ast.

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
