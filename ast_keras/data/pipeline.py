"""The data pipeline: batches as a pure function of (seed, epoch, position).

Every batch can be computed from its step number alone. The order of an epoch and every random
number of an example come from a counter-based generator (Philox), never from the state that earlier
draws left behind. A run therefore resumes at any step, with any number of decoding threads, with
exactly the same batches.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ast_keras.audio.loading import Channel
from ast_keras.data.clips import Clips
from ast_keras.data.dataset import Split
from ast_keras.data.prefetch import map_ahead
from ast_keras.data.sampling import (
    EXAMPLE,
    ByLength,
    InOrder,
    Sampling,
    Shuffled,
    Weighted,
    balanced_class_weights,
    clip_weights,
    generator,
)
from ast_keras.data.waveform_augment import WaveformAugment
from ast_keras.errors import ArgumentError

Array = npt.NDArray[Any]
Batch = dict[str, Array]
Result = TypeVar("Result")

_NUM_WIDTHS = 16  # number of different batch widths with `by_length`


class Pipeline:
    """Makes batches of a split: decodes in threads, caches, samples and augments.

    `fit_dataset()` is the input of `model.fit` and `model.evaluate`. `batch`, `batches` and
    `dataset` give batches as a dictionary for custom training loops:

    | key | dtype, shape | meaning |
    |---|---|---|
    | waveform | float32 `[batch, up to clip_samples]` | samples in [-1, 1], zero-padded |
    | lengths | int32 `[batch]` | number of samples of each clip |
    | target | float32 `[batch, classes]` | 1 for each label; fractions after mixup |
    | weight | float32 `[batch]` | class weight / (number of examples in the batch); 0 for filler \
rows |
    | seeds | int32 `[batch, 2]` | seed of the augmentation that the model applies |

    These batches are always full: the last batch of an epoch is filled up with rows of weight 0, so
    that all batches have the same shape on every device.

    With `skip_unreadable`, an example whose file cannot be decoded is replaced in training by the
    next example of the split that can be decoded, including its label. In evaluation its weight is
    0. The batches thus remain a pure function of the files. Each unreadable file is logged once. A
    missing file, or 100 unreadable files in a row, still raise an error.

    With `by_length`, a batch is only as wide as its longest clip, and training batches group clips
    of similar length, which saves padding (for `padding="masked"`). The lengths are read from the
    headers of the files.

    Args:
        split: Examples to read.
        num_classes: Number of classes: the width of the targets.
        clip_samples: Length to which longer clips are cut, in samples.
        batch_size: Number of examples in a batch, over all devices.
        sample_rate: Sample rate in Hz; files at another rate are resampled.
        seed: Seed of the order and of all augmentation.
        training: Whether to shuffle (or sample) and to augment. Otherwise the examples come in the
            order of the split.
        sampling: "shuffled" to use every example once an epoch, or "weighted" to draw the same
            number of examples with replacement, with probabilities proportional to `clip_weights`.
            For training only.
        class_weights: Weight of each class in the loss, `[classes]`, or "balanced" for
            `balanced_class_weights`, which need one label for each example. An example that mixup
            makes of two has the same mixture of their weights. None is 1 for all. For training
            only. Excludes `sampling="weighted"`, which makes up for rare classes already.
        mixup_rate: Probability that a training example is mixed with another one, which is drawn
            uniformly from the split.
        shift_samples: Largest circular shift of a training example, in samples, in either
            direction.
        gain_db: Largest change of the level of a training example, in decibels, in either
            direction.
        channel: `"mix"` for the mean of all channels of a file, or the index of one channel.
        num_workers: Number of decoding threads; 0 for one per core.
        cache_bytes: Memory for decoded clips, in bytes.
        skip_unreadable: Whether to continue when a file cannot be decoded.
        by_length: Whether batches are as wide as their longest clip instead of `clip_samples`.

    Attributes:
        clips: The decoded clips, a `Clips`; `clips.unreadable` lists the files skipped so far.

    Raises:
        ArgumentError: If the split is empty, `sampling` is unknown, no example has a label from
            which to compute a weight, or the class weights do not fit.

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
        # Training only.
        training: bool = False,
        sampling: str = "shuffled",
        class_weights: str | npt.ArrayLike | None = None,
        mixup_rate: float = 0.0,
        shift_samples: int = 0,
        gain_db: float = 0.0,
        # Reading.
        channel: Channel = "mix",
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
        self.num_workers = num_workers or os.cpu_count() or 1
        self.by_length = by_length
        self.clips = Clips(
            split.sources,
            clip_samples=clip_samples,
            sample_rate=sample_rate,
            channel=channel,
            cache_bytes=cache_bytes,
            skip_unreadable=skip_unreadable,
        )
        self.error: Exception | None = None  # the error that ended `batches`
        self._augment = WaveformAugment(mixup_rate, shift_samples, gain_db)
        self._sampling = self._make_sampling(sampling)
        self._class_weights = self._make_class_weights(class_weights, sampling)

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

    def _make_class_weights(self, kind: str | npt.ArrayLike | None, sampling: str) -> Array | None:
        if kind is None:
            return None
        if not self.training or sampling == "weighted":
            raise ArgumentError(
                'Class weights are for training with sampling="shuffled": leave one of the two '
                f"out. Received: training={self.training}, sampling={sampling!r}"
            )
        balanced = balanced_class_weights(self.split.targets, self.num_classes)
        if isinstance(kind, str) and kind == "balanced":
            return balanced
        weights = np.asarray([] if isinstance(kind, str) else kind, np.float64)
        if weights.shape != (self.num_classes,) or not (weights >= 0).all():
            raise ArgumentError(
                'class_weights must be "balanced", or one number for each class that is not '
                f"negative. Received: class_weights={kind!r} for {self.num_classes} classes"
            )
        return weights

    @property
    def num_examples(self) -> int:
        """Number of examples in the split."""
        return len(self.split)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch, including a last, partial one."""
        return -(-self.num_examples // self.batch_size)

    def order(self, epoch: int) -> Array:
        """Returns the indices into the split in the order of an epoch, int64 `[examples]`."""
        return self._sampling.order(epoch)

    def waveform(self, index: int) -> Array:
        """Returns a decoded clip of the split, float32 `[up to clip_samples]`."""
        return self.clips[index]

    def example(self, epoch: int, position: int) -> tuple[Array, Array, Array]:
        """Returns waveform, target and seed of one position in an epoch."""
        waveform, target = self._load_example(self._sampling.index(epoch, position))
        rng = generator(self.seed, EXAMPLE, epoch, position)
        seed = rng.integers(0, 2**31 - 1, size=2, dtype=np.int32)
        if self.training:
            waveform, target = self._augment(
                waveform, target, rng, self.num_examples, self._load_example
            )
        return waveform, target, seed

    def _load_example(self, index: int) -> tuple[Array, Array]:
        index, waveform = self.clips.readable(index)
        target = np.zeros(self.num_classes, np.float32)
        target[list(self.split.targets[index])] = 1.0
        return waveform, target

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """Returns the batch of a step as a dictionary of arrays (see the class).

        Args:
            step: Zero-based step, counted from the start of training. It determines the epoch.
            rows: Rows of the global batch to make. A distributed worker makes only its own rows.
        """
        batch = self._weighted_batch(step, rows)
        batch["weight"] /= np.float32(self._num_real(step))
        return batch

    def _weighted_batch(self, step: int, rows: slice) -> Batch:
        """Returns the batch of a step, with weights of 1 where there are no class weights."""
        epoch, batch_index = divmod(step, self.steps_per_epoch)
        first = batch_index * self.batch_size
        num_real = self._num_real(step)
        places = range(self.batch_size)[rows]
        real_places = [place for place in places if place < num_real]
        examples = [self.example(epoch, first + place) for place in real_places]
        batch: Batch = {
            "waveform": np.zeros((len(places), self._width(examples)), np.float32),
            "lengths": np.ones(len(places), np.int32),  # a model refuses sounds of no samples
            "target": np.zeros((len(places), self.num_classes), np.float32),
            "weight": np.zeros(len(places), np.float32),
            "seeds": np.zeros((len(places), 2), np.int32),
        }
        for row, (place, example) in enumerate(zip(real_places, examples, strict=True)):
            waveform, batch["target"][row], batch["seeds"][row] = example
            batch["waveform"][row, : len(waveform)] = waveform
            batch["lengths"][row] = len(waveform)
            skipped = not self.training and first + place in self.clips.unreadable
            batch["weight"][row] = 0.0 if skipped else 1.0
        if self._class_weights is not None:
            batch["weight"] *= batch["target"] @ self._class_weights
        return batch

    def _num_real(self, step: int) -> int:
        """Returns the number of examples in the batch of a step, without filler rows."""
        first = step % self.steps_per_epoch * self.batch_size
        return min(self.batch_size, self.num_examples - first)

    def _width(self, examples: list[tuple[Array, Array, Array]]) -> int:
        """Returns the width in samples of a batch of these examples."""
        if not self.by_length:
            return self.clip_samples
        # A small number of different widths, because XLA compiles for each of them.
        quantum = -(-self.clip_samples // _NUM_WIDTHS)
        longest = max((len(waveform) for waveform, _, _ in examples), default=1)
        return min(self.clip_samples, -(-max(longest, 1) // quantum) * quantum)

    def batches(
        self, first_step: int, last_step: int, rows: slice = slice(None)
    ) -> Iterator[Batch]:
        """Yields the batches of the steps from `first_step` up to, not including, `last_step`.

        Batches are made ahead of time in threads. Neither their order nor their content depends on
        the number of threads.
        """
        return self._make_ahead(lambda step: self.batch(step, rows), range(first_step, last_step))

    def _make_ahead(self, make: Callable[[int], Result], steps: Iterable[int]) -> Iterator[Result]:
        try:
            yield from map_ahead(make, steps, self.num_workers)
        except Exception as error:
            self.error = error
            raise

    def dataset(self, first_step: int, last_step: int, rows: slice = slice(None)) -> Any:
        """Returns `batches(first_step, last_step)` as a `tf.data.Dataset` of dictionaries.

        TensorFlow replaces a decoding error by one of its own. Read the dataset inside
        `translate_errors()` to get the original error.
        """
        import tensorflow as tf

        size = len(range(self.batch_size)[rows])
        dataset = tf.data.Dataset.from_generator(
            lambda: self.batches(first_step, last_step, rows),
            output_signature=self._signature(size),
        )
        return dataset.prefetch(2)

    def fit_dataset(self, initial_epoch: int = 0) -> Any:
        """Returns a `tf.data.Dataset` for `model.fit` and `model.evaluate`.

        Its elements are `({"waveform", "lengths", "seeds"}, target, weight)`. Unlike `batch`, it
        follows the conventions of Keras: the last batch of an epoch is smaller instead of filled
        up, and the weight of an example is that of its class, or 1 (0 for an unreadable file in
        evaluation), so that losses and metrics are means over the examples. Keras refuses its
        argument `class_weight` for a dataset with weights: pass `class_weights` to the pipeline.

        With `training=True` the dataset is endless, because every epoch has another order and other
        augmentation: pass `steps_per_epoch`. Otherwise it holds every example once.

            model.fit(
                train.fit_dataset(),
                steps_per_epoch=train.steps_per_epoch,
                epochs=3,
                validation_data=validation.fit_dataset(),
            )

        Wrap the call in `with train.translate_errors():` to get the original error when a file
        cannot be decoded.

        Args:
            initial_epoch: Zero-based epoch of the first batch; the `initial_epoch` of `model.fit`
                when training resumes.

        Example:

        >>> split = Split(sources=[np.zeros(16000, "float32")] * 3, targets=[(0,), (1,), (0,)])
        >>> pipeline = Pipeline(split, num_classes=2, clip_samples=16000, batch_size=2)
        >>> for inputs, target, weight in pipeline.fit_dataset():
        ...     print(sorted(inputs), target.shape, weight.numpy().tolist())
        ['lengths', 'seeds', 'waveform'] (2, 2) [1.0, 1.0]
        ['lengths', 'seeds', 'waveform'] (1, 2) [1.0]
        """
        import tensorflow as tf

        first_step = initial_epoch * self.steps_per_epoch
        last_step = first_step + self.steps_per_epoch

        def elements() -> Iterator[tuple[Batch, Array, Array]]:
            steps = itertools.count(first_step) if self.training else range(first_step, last_step)
            return self._make_ahead(self._fit_element, steps)

        dataset = tf.data.Dataset.from_generator(
            elements, output_signature=_as_fit_element(self._signature(None))
        )
        endless = tf.data.experimental.INFINITE_CARDINALITY
        cardinality = endless if self.training else self.steps_per_epoch
        return dataset.apply(tf.data.experimental.assert_cardinality(cardinality)).prefetch(2)

    def _fit_element(self, step: int) -> tuple[Batch, Array, Array]:
        return _as_fit_element(self._weighted_batch(step, slice(0, self._num_real(step))))

    def _signature(self, size: int | None) -> dict[str, Any]:
        """Returns the `tf.TensorSpec`s of a batch of `size` rows; None for any number of rows."""
        import tensorflow as tf

        width = None if self.by_length else self.clip_samples
        return {
            "waveform": tf.TensorSpec((size, width), tf.float32),
            "lengths": tf.TensorSpec((size,), tf.int32),
            "target": tf.TensorSpec((size, self.num_classes), tf.float32),
            "weight": tf.TensorSpec((size,), tf.float32),
            "seeds": tf.TensorSpec((size, 2), tf.int32),
        }

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raises the original error of a batch in place of TensorFlow's."""
        try:
            yield
        except Exception:
            if self.error is not None:
                raise self.error from None
            raise


def _as_fit_element(batch: dict[str, Any]) -> tuple[dict[str, Any], Any, Any]:
    inputs = {name: batch[name] for name in ("waveform", "lengths", "seeds")}
    return inputs, batch["target"], batch["weight"]
