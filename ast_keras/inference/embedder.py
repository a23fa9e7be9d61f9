"""Sounds as vectors: one for a sound, one for each second, or one for each patch."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ast_keras.audio import load_audio
from ast_keras.audio.blocks import sound_blocks
from ast_keras.audio.loading import FRAME_SECONDS
from ast_keras.audio.mel import seconds_to_samples
from ast_keras.errors import InferenceError
from ast_keras.files import replacing
from ast_keras.inference.windows import check_whole, cut_windows, window_samples
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.models.causal_ast_backbone import CausalASTBackbone

Array = npt.NDArray[Any]

KINDS = ("pooled", "seconds", "tokens")
_SUFFIXES = (".parquet", ".npz")


class Embedding(NamedTuple):
    """One vector and what it is about.

    Attributes:
      path: Of the sound's file.
      start: First second of it.
      end: Where it ends, in seconds.
      mel: Of a patch, its place on the mel axis, from the lowest; else -1.
      vector: float32 `[embed_dim]`.
    """

    path: str
    start: float
    end: float
    mel: int
    vector: Array


class Embedder:
    """Embeds sound files with a model.

    | `kind` | a vector for | is |
    |---|---|---|
    | "pooled" | each window, or the whole sound | what the classifier's head reads |
    | "seconds" | each second | the mean of the patches whose middle lies in it |
    | "tokens" | each patch | the transformer's output there |

    Args:
      model: An `ASTClassifier` with a frontend.
      kind: See above.
      window_seconds: Files are heard in windows of this length, one after the other; None for as
        far as the model hears, or with `padding="masked"` the whole, up to a minute.

    Raises:
      InferenceError: If there is no such kind for this model, or it takes spectrograms.
      InferenceError: If the model does not hear so much at once.

    Example:

    >>> import soundfile, tempfile
    >>> from ast_keras import from_preset
    >>> path = os.path.join(tempfile.mkdtemp(), "a.wav")
    >>> soundfile.write(path, np.zeros(32_000), 16_000)
    >>> model = from_preset("ast_test", num_classes=2, num_frames=1024)
    >>> [(e.start, e.end, e.vector.shape) for e in Embedder(model, "seconds").embed(path)]
    [(0.0, 1.0, (48,)), (1.0, 2.0, (48,))]
    """

    def __init__(
        self, model: ASTClassifier, kind: str = "pooled", window_seconds: float | None = None
    ) -> None:
        if kind not in KINDS:
            raise InferenceError(f"kind must be one of {', '.join(KINDS)}. Received: {kind!r}")
        if model.frontend is None:
            raise InferenceError("This model takes spectrograms, not sound: it has no frontend")
        if kind != "pooled" and isinstance(model.backbone, CausalASTBackbone):
            raise InferenceError(
                f"A causal model gives one vector a sound: choose kind pooled. Received: {kind!r}"
            )
        self.model, self.kind = model, kind
        self.sample_rate: int = model.frontend.sample_rate
        self._window = None
        if window_seconds is not None:
            self._window = window_samples(model, window_seconds)
        self._outputs = tf.function(
            self._tokens_and_pooled,
            input_signature=[
                tf.TensorSpec((1, None), tf.float32), tf.TensorSpec((1,), tf.int32)
            ],
        )  # fmt: skip

    def pieces(self, path: str) -> Iterator[tuple[int, Array]]:
        """Yields a file's sound piece by piece, with the first sample of each; needs no model.

        Raises:
          AudioError: If the file cannot be read.
          InferenceError: If it is too long to be heard without windows.
        """
        if self._window is not None:
            least = round(FRAME_SECONDS * self.sample_rate)
            blocks = sound_blocks(path, self.sample_rate)
            yield from cut_windows(blocks, self._window, self._window, least)
            return
        waveform = load_audio(path, self.sample_rate)
        if self.model.padding == "original":
            waveform = waveform[: self.model.frontend.num_samples]
        else:
            check_whole(path, len(waveform) / self.sample_rate)
        yield 0, waveform

    def embed(
        self, path: str, pieces: Iterable[tuple[int, Array]] | None = None
    ) -> Iterator[Embedding]:
        """Yields a file's vectors, in the order of time, and of mel within.

        Args:
          path: Of the file.
          pieces: Its `pieces`, where they are read already.

        Raises:
          AudioError, InferenceError: As `pieces`.
        """
        for start, samples in self.pieces(path) if pieces is None else pieces:
            lengths = np.array([len(samples)], np.int32)
            tokens, pooled = (part.numpy()[0] for part in self._outputs(samples[None], lengths))
            begin, end = (sample / self.sample_rate for sample in (start, start + len(samples)))
            if self.kind == "pooled":
                yield Embedding(path, begin, end, -1, pooled)
            else:
                yield from self._patches(path, begin, end, tokens, len(samples))

    def _tokens_and_pooled(self, waveform: tf.Tensor, lengths: tf.Tensor) -> Any:
        model = self.model
        frames = model.count_frames(lengths)
        asked = model.backbone.num_pooled_tokens if self.kind == "pooled" else None
        tokens = model.backbone(
            model.spectrogram(waveform, lengths), training=False, lengths=frames, num_tokens=asked
        )
        return tf.cast(tokens, tf.float32), tf.cast(model.pool(tokens, frames), tf.float32)

    def _patches(
        self, path: str, begin: float, end: float, tokens: Array, num_samples: int
    ) -> Iterator[Embedding]:
        """Yields what patches say of the sound that they hear; padding is left out."""
        backbone, frontend = self.model.backbone, self.model.frontend
        grid = tokens[backbone.num_special_tokens :].reshape(backbone.grid[0], -1, tokens.shape[1])
        heard = backbone.count_columns(frontend.count_frames(num_samples))
        grid = grid[:, : min(heard, grid.shape[1])]
        step = seconds_to_samples(frontend.frame_step_seconds, self.sample_rate) / self.sample_rate
        starts = begin + np.arange(grid.shape[1]) * backbone.strides[1] * step
        length = (backbone.patch_size[1] - 1) * step + frontend.frame_length_seconds
        if self.kind == "tokens":
            for column, start in enumerate(starts):
                for mel in range(grid.shape[0]):
                    last = round(min(start + length, end), 6)
                    yield Embedding(path, round(start, 6), last, mel, grid[mel, column])
            return
        second = np.minimum(starts + length / 2, np.nextafter(end, begin)) - begin
        for number in range(int(np.ceil(end - begin))):
            inside = second.astype(int) == number
            if inside.any():  # else less than a patch is left
                last = min(begin + number + 1, end)
                vector = grid[:, inside].mean(axis=(0, 1))
                yield Embedding(path, begin + number, last, -1, vector)


def write_embeddings(
    embeddings: Iterable[Embedding],
    path: str | os.PathLike[str],
    about: dict[str, str] | None = None,
) -> int:
    """Writes embeddings to one file, whole or not at all, and returns how many there are.

    Parquet has the columns `path`, `start`, `end`, `mel` and `embedding`; it is written as they
    come, so that they need not fit into memory. A NumPy archive has an array for each, `embedding`
    `[vectors, embed_dim]`.

    Args:
      embeddings: What to write.
      path: Ends in `.parquet`, which needs pyarrow, or `.npz`.
      about: What to say of them: the file's metadata, or an array `about`.

    Raises:
      InferenceError: If the ending is another, or pyarrow is not installed.
    """
    suffix = check_output(path)
    with replacing(path) as part:
        write = _write_parquet if suffix == ".parquet" else _write_archive
        return write(embeddings, part, about or {})


def check_output(path: str | os.PathLike[str]) -> str:
    """Returns the ending of a file that embeddings can be written to; raises InferenceError."""
    suffix = pathlib.Path(path).suffix
    if suffix not in _SUFFIXES:
        raise InferenceError(
            f"Embeddings are written to a file in {' or '.join(_SUFFIXES)}. Received: {path}"
        )
    if suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise InferenceError(
                "Parquet needs pyarrow: pip install pyarrow, or choose a file in .npz"
            ) from None
    return suffix


def _write_archive(
    embeddings: Iterable[Embedding], path: pathlib.Path, about: dict[str, str]
) -> int:
    rows = list(embeddings)
    columns = zip(*rows, strict=True) if rows else [()] * len(Embedding._fields)
    names = [*Embedding._fields[:-1], "embedding"]
    arrays = {name: np.array(column) for name, column in zip(names, columns, strict=True)}
    with open(path, "wb") as file:
        np.savez(file, **arrays, about=np.array(sorted(about.items()), str))
    return len(rows)


def _write_parquet(
    embeddings: Iterable[Embedding], path: pathlib.Path, about: dict[str, str]
) -> int:
    import pyarrow as pa
    import pyarrow.parquet

    schema = pa.schema(
        {
            "path": pa.string(),
            "start": pa.float64(),
            "end": pa.float64(),
            "mel": pa.int32(),
            "embedding": pa.list_(pa.float32()),
        },
        metadata=about,
    )
    count, rows = 0, list[Embedding]()
    with pa.parquet.ParquetWriter(path, schema) as writer:

        def write_rows() -> None:
            columns = [list(column) for column in zip(*rows, strict=True)]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
            writer.write_table(pa.table(arrays, schema=schema))
            rows.clear()

        for embedding in embeddings:
            rows.append(embedding)
            count += 1
            if len(rows) == 4096:
                write_rows()
        if rows:
            write_rows()
    return count
