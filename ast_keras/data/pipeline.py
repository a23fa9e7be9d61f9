"""Sounds to batches, as a pure function of (seed, epoch, position).

Every batch can be made from its step number alone: the order of an epoch and every random draw of
an example come from a counter-based generator, never from what was drawn before. So a run resumes
anywhere, on any number of decoding threads, with the very same batches.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.data.clips import Clips
from ast_keras.data.readers import Split
from ast_keras.data.sampling import (
    EXAMPLE,
    ByLength,
    InOrder,
    Sampling,
    Shuffled,
    Weighted,
    clip_weights,
    generator,
)
from ast_keras.errors import ArgumentError

Array = npt.NDArray[Any]
Batch = dict[str, Array]

_WIDTHS = 16  # different lengths of batches


def mixup(first: Array, second: Array, weight: float) -> Array:
    """Mixes two waveforms, `weight` of the first and the rest of the second.

    The means are removed before and after mixing, and the second is padded with zeros or cut to
    the first's length, as in the original.

    Args:
      first: float32 `[samples]`.
      second: float32 `[any samples]`.
      weight: In [0, 1].

    Reference:
      Tokozume et al., "Learning from Between-class Examples", ICLR 2018; YuanGongND/ast.

    Example:

    >>> mixup(np.array([1.0, -1.0]), np.array([0.0, 0.0]), 0.25).tolist()
    [0.25, -0.25]
    """
    fitted = np.zeros_like(first)
    kept = min(len(first), len(second))
    fitted[:kept] = (second - second.mean())[:kept] if kept else 0
    mixed = weight * (first - first.mean()) + (1 - weight) * fitted
    result: Array = (mixed - mixed.mean()).astype(first.dtype)
    return result


class Pipeline:
    """Makes batches of a split, decoding in threads and keeping decoded sounds while they fit.

    A batch is a dictionary of arrays, always full: a last, partial batch is filled up with rows of
    weight zero, so that every batch has one shape on every device.

    With `skip_unreadable`, an example whose file cannot be decoded is replaced in training by the
    next one of the split that can, label and all, and left out of an evaluation (weight zero). So
    the batches stay a pure function of the files. Each such file is reported once; a file that has
    gone, or a hundred broken ones in a row, still stop the run.

    With `by_length`, a batch is only as long as its longest clip, and in training clips of about
    the same length come together: less padding, for a model that need not have it
    (`padding="masked"`). How long a clip is comes from its file's header.

    | key | dtype, shape | meaning |
    |---|---|---|
    | waveform | float32 [batch, up to clip_samples] | in [-1, 1], zero after `length` |
    | length | int32 [batch] | samples of the clip |
    | target | float32 [batch, classes] | 1 for each label; fractions after mixup |
    | weight | float32 [batch] | 1 / (real examples in this batch), or 0 for filling |
    | seed | int32 [batch, 2] | for the example's augmentation on the device |

    Args:
      split: What to read.
      num_classes: Width of the targets.
      sample_rate: In Hz; files at another rate are resampled.
      clip_samples: Longer clips are cut to this many samples.
      batch_size: Examples per batch, over all devices.
      seed: Decides everything random.
      training: Whether to sample and to augment; otherwise the order is the split's.
      sampling: In training, "shuffled" shows every example once an epoch; "weighted" draws as many
        with replacement, each in proportion to its `clip_weights`.
      mixup_rate: Share of examples mixed with another one, drawn uniformly from the split.
      shift_samples: Largest circular shift, both ways.
      gain_db: Largest change of level, both ways, in decibels.
      num_workers: Decoding threads; 0 for one per core.
      cache_bytes: How much decoded sound to keep in memory.
      skip_unreadable: Whether to go on when a file cannot be decoded.
      by_length: Whether batches are as long as their clips, not `clip_samples`.

    Attributes:
      clips: The decoded sounds; `clips.unreadable` says what was skipped so far.

    Raises:
      ValueError: If the split is empty, the sampling is unknown, or no example has a label to
        weigh.

    Example:

    >>> split = Split(sources=[np.zeros(16000, "float32")] * 3, targets=[(0,), (1,), (0,)])
    >>> pipeline = Pipeline(split, num_classes=2, clip_samples=16000, batch_size=2)
    >>> pipeline.steps_per_epoch, pipeline.batch(1)["weight"].tolist()
    (2, [1.0, 0.0])
    """

    def __init__(
        self,
        split: Split,
        *,
        num_classes: int,
        clip_samples: int,
        batch_size: int,
        sample_rate: int = 16000,
        seed: int = 0,
        training: bool = False,
        sampling: str = "shuffled",
        mixup_rate: float = 0.0,
        shift_samples: int = 0,
        gain_db: float = 0.0,
        num_workers: int = 0,
        cache_bytes: int = 0,
        skip_unreadable: bool = False,
        by_length: bool = False,
    ) -> None:
        if len(split) == 0:
            raise ArgumentError("A pipeline needs at least one example. Received: an empty split")
        self.split = split
        self.num_classes = num_classes
        self.clip_samples = clip_samples
        self.batch_size = batch_size
        self.sample_rate = sample_rate
        self.seed = seed
        self.training = training
        self.mixup_rate = mixup_rate
        self.shift_samples = shift_samples
        self.gain_db = gain_db
        self.num_workers = num_workers or os.cpu_count() or 1
        self.by_length = by_length
        self.clips = Clips(
            split.sources,
            clip_samples=clip_samples,
            sample_rate=sample_rate,
            cache_bytes=cache_bytes,
            skip_unreadable=skip_unreadable,
        )
        self.error: Exception | None = None  # what stopped a batch
        self._sampling = self._make_sampling(sampling)

    def _make_sampling(self, kind: str) -> Sampling:
        if kind not in ("shuffled", "weighted"):
            raise ArgumentError(
                f'sampling must be "shuffled" or "weighted". Received: sampling={kind!r}'
            )
        if not self.training:
            return InOrder(self.num_examples)
        sampling: Sampling
        if kind == "shuffled":
            sampling = Shuffled(self.num_examples, self.seed)
        else:
            sampling = Weighted(clip_weights(self.split.targets, self.num_classes), self.seed)
        if self.by_length:
            sampling = ByLength(sampling, self.clips.lengths, self.batch_size, self.seed)
        return sampling

    @property
    def num_examples(self) -> int:
        """Number of examples in the split."""
        return len(self.split)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches that hold as many examples as there are."""
        return -(-self.num_examples // self.batch_size)

    def order(self, epoch: int) -> Array:
        """Returns the split's indices in the order of this epoch."""
        return self._sampling.order(epoch)

    def waveform(self, index: int) -> Array:
        """Returns a clip of the split as decoded, float32 `[up to clip_samples]`."""
        return self.clips[index]

    def example(self, epoch: int, position: int) -> tuple[Array, Array, Array]:
        """Returns waveform, target and seed of one place in an epoch."""
        index, clip = self.clips.readable(self._sampling.index(epoch, position))
        target = self._target(index)
        rng = generator(self.seed, EXAMPLE, epoch, position)
        seed = rng.integers(0, 2**31 - 1, size=2, dtype=np.int32)
        if self.training:
            clip, target = self._augment(clip, target, rng)
        return clip, target, seed

    def _target(self, index: int) -> Array:
        target = np.zeros(self.num_classes, np.float32)
        target[list(self.split.targets[index])] = 1.0
        return target

    def _augment(self, clip: Array, target: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        # Always the same number of draws, so that one setting does not change another's.
        mixes, partner, weight = rng.random(), rng.integers(self.num_examples), rng.beta(10, 10)
        shift, gain = rng.integers(-self.shift_samples, self.shift_samples + 1), rng.uniform(-1, 1)
        if mixes < self.mixup_rate:
            index, other = self.clips.readable(int(partner))
            clip = mixup(clip, other, weight)
            target = weight * target + (1 - weight) * self._target(index)
        if self.shift_samples:
            clip = np.roll(clip, shift)
        if self.gain_db:
            clip = clip * np.float32(10 ** (self.gain_db * gain / 20))
        return clip, target.astype(np.float32)

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """Returns the batch of a step, counted from the start of training.

        Args:
          step: Zero-based; the epoch follows from it.
          rows: Which rows of the global batch to make, for a worker that feeds only its share.
        """
        epoch, batch_index = divmod(step, self.steps_per_epoch)
        first = batch_index * self.batch_size
        real = min(self.batch_size, self.num_examples - first)
        wanted = range(self.batch_size)[rows]
        real_rows = [place for place in wanted if place < real]
        examples = [self.example(epoch, first + place) for place in real_rows]
        batch: Batch = {
            "waveform": np.zeros((len(wanted), self._width(examples)), np.float32),
            "lengths": np.zeros(len(wanted), np.int32),
            "target": np.zeros((len(wanted), self.num_classes), np.float32),
            "weight": np.zeros(len(wanted), np.float32),
            "seeds": np.zeros((len(wanted), 2), np.int32),
        }
        for row, (place, example) in enumerate(zip(real_rows, examples, strict=True)):
            clip, batch["target"][row], batch["seeds"][row] = example
            batch["waveform"][row, : len(clip)] = clip
            batch["lengths"][row] = len(clip)
            left_out = not self.training and first + place in self.clips.unreadable
            batch["weight"][row] = 0.0 if left_out else 1.0 / real
        return batch

    def _width(self, examples: list[tuple[Array, Array, Array]]) -> int:
        """Returns how many samples long a batch of these examples is."""
        if not self.by_length:
            return self.clip_samples
        # Few different lengths: XLA compiles for each.
        step = -(-self.clip_samples // _WIDTHS)
        longest = max((len(clip) for clip, _, _ in examples), default=1)
        return min(self.clip_samples, -(-max(longest, 1) // step) * step)

    def batches(
        self, first_step: int, last_step: int, rows: slice = slice(None)
    ) -> Iterator[Batch]:
        """Yields the batches of steps `first_step` up to but not including `last_step`, in order.

        Whole batches are made ahead in threads; the order and the content do not depend on them.
        """
        with concurrent.futures.ThreadPoolExecutor(self.num_workers) as pool:
            ahead: collections.deque[concurrent.futures.Future[Batch]] = collections.deque()
            upcoming = iter(range(first_step, last_step))
            try:
                for step in upcoming:
                    ahead.append(pool.submit(self.batch, step, rows))
                    if len(ahead) > self.num_workers:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            except Exception as error:
                self.error = error
                raise
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def dataset(self, first_step: int, last_step: int, rows: slice = slice(None)) -> Any:
        """Returns `batches(first_step, last_step)` as a `tf.data.Dataset` of dictionaries.

        An error while decoding reaches the consumer of a dataset as a TensorFlow error: read the
        dataset inside `translate_errors()` to get the original one.
        """
        import tensorflow as tf

        size = len(range(self.batch_size)[rows])
        signature = {
            "waveform": tf.TensorSpec(
                (size, None if self.by_length else self.clip_samples), tf.float32
            ),
            "lengths": tf.TensorSpec((size,), tf.int32),
            "target": tf.TensorSpec((size, self.num_classes), tf.float32),
            "weight": tf.TensorSpec((size,), tf.float32),
            "seeds": tf.TensorSpec((size, 2), tf.int32),
        }
        dataset = tf.data.Dataset.from_generator(
            lambda: self.batches(first_step, last_step, rows), output_signature=signature
        )
        return dataset.prefetch(2)

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raises what stopped a batch instead of what TensorFlow made of it."""
        try:
            yield
        except Exception:
            if self.error is not None:
                raise self.error from None
            raise
