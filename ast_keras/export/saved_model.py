"""SavedModels for TensorFlow Serving: waveforms or WAV files in, scores or embeddings out."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from ast_keras.errors import ExportError
from ast_keras.export.acceptance import DEFAULT_TOLERANCE, Report, Tolerance, compare
from ast_keras.export.isolated_run import measure
from ast_keras.export.reference_clips import comparison_clips, keras_scores
from ast_keras.export.serving_module import ServingModule, label_names
from ast_keras.export.serving_warmup import require_serving, write_warmup
from ast_keras.export.wav_decoding import decode_wav
from ast_keras.files import replacing_folder, write_json
from ast_keras.models.audio_classifier import AudioClassifier

LABELS_FILE = "labels.txt"
REPORT_FILE = "report.json"


def export_saved_model(
    model: AudioClassifier,
    folder: str | os.PathLike[str],
    *,
    version: int | None = None,
    overwrite: bool = False,
    method: str = "conv",
    clips: str | os.PathLike[str] | None = None,
    num_clips: int = 200,
    bounds: Tolerance | None = None,
    num_threads: int = 2,
) -> tuple[pathlib.Path, Report]:
    """Writes a classifier as a new version in the base folder of TensorFlow Serving.

    | signature | inputs | outputs |
    |---|---|---|
    | `serving_default` | `waveform` float32 `[batch, samples]` in [-1, 1] | `scores` |
    | `serving_lengths` | `waveform`, and `lengths` int32 `[batch]` in samples | `scores` |
    | `serving_bytes` | `audio_bytes` string `[batch]`, 16-bit PCM WAV files | `scores` |
    | `classify` | tf.Examples with a feature `audio_bytes` | `classes`, `scores` |
    | `embed` | `waveform`, as for `serving_default` | `pooled`, `tokens` |

    Waveforms may have any length. A clip that is shorter than the model's input is padded as in
    training, each clip of a batch on its own; with `padding="masked"` longer clips are processed
    whole. WAV files are decoded as by `load_audio`, with any header of 16-bit PCM; they must have
    the model's sample rate, and their channels are averaged. The labels are an asset of the
    SavedModel, and each weight is stored once.

    The version is written to a temporary folder, run in a new process, compared with the model and
    then renamed: a server that watches the base folder never loads an incomplete version.

    Args:
        model: `AudioClassifier` with a frontend.
        folder: Base folder of the served model, whose name is the model's name in warm-up requests.
        version: Positive version number; None for the highest existing one plus one.
        overwrite: Whether to replace the version if it exists.
        method: Computation of the filterbank. "conv" also runs in other runtimes that read
            SavedModels; "fft" computes in float64 where float32 is not exact enough (see
            `LogMelFilterbank`).
        clips: Folder of recordings to compare on; None for rendered sounds.
        num_clips: Number of clips to compare on.
        bounds: Largest allowed differences from the model; None for
            `DEFAULT_TOLERANCE["saved_model"]`.
        num_threads: Number of threads of the process that is measured.

    Returns:
        The folder of the version, and the report, which is also in the folder as report.json.

    Raises:
        ArgumentError: If the model takes spectrograms.
        ExportError: If the version exists, a package is missing, or the file is not within its
            tolerance. Nothing is written in these cases.

    Example:

    >>> import tempfile
    >>> from ast_keras import from_preset
    >>> tiny = from_preset("ast_test", num_classes=2, num_frames=98)
    >>> path, report = export_saved_model(tiny, tempfile.mkdtemp(), num_clips=2)
    >>> path.name, report.agreement
    ('1', 1.0)
    """
    base = pathlib.Path(folder)
    target = base / str(_checked_version(base, version))
    if target.exists() and not overwrite:
        raise ExportError(
            "The version exists: add --overwrite (overwrite=True) to replace it, or omit the "
            f"version. Received: {target}"
        )
    require_serving()
    module = ServingModule(model, method)
    num_samples = model.default_num_samples
    waveforms, source = comparison_clips(model, num_samples, clips, num_clips)
    with replacing_folder(target) as part:
        _save(module, model, part)
        write_warmup(part, base.resolve().name, num_samples, model.frontend.sample_rate)
        report = compare(
            "saved_model",
            source,
            bounds or DEFAULT_TOLERANCE["saved_model"],
            keras_scores(model, waveforms),
            measure("saved_model", part, waveforms, num_threads),
            size_bytes=sum(p.stat().st_size for p in part.rglob("*") if p.is_file()),
            operators=operators(part),
        )
        if report.violations:
            raise ExportError(
                f"The SavedModel is not within its tolerance: {report.violations}. "
                "Nothing was written"
            )
        write_json(part / REPORT_FILE, report.to_dict())
    return target, report


def operators(folder: str | os.PathLike[str]) -> dict[str, int]:
    """Returns the number of occurrences of each operator in a SavedModel.

    Args:
        folder: Folder of the SavedModel.

    Returns:
        Counts by operator name, functions included, the most frequent first.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString(pathlib.Path(folder, "saved_model.pb").read_bytes())
    counts: dict[str, int] = {}
    for meta in saved.meta_graphs:
        functions = [node for f in meta.graph_def.library.function for node in f.node_def]
        for node in [*meta.graph_def.node, *functions]:
            counts[node.op] = counts.get(node.op, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _checked_version(base: pathlib.Path, version: int | None) -> int:
    if version is None:
        return 1 + max(_versions(base), default=0)
    if version < 1:
        raise ExportError(f"The version must be a positive number. Received: version={version}")
    return version


def _versions(base: pathlib.Path) -> Iterator[int]:
    if base.exists() and not base.is_dir():
        raise ExportError(f"The output must be a folder, not a file. Received: {base}")
    for path in base.iterdir() if base.is_dir() else ():
        if path.name.isdecimal():
            yield int(path.name)


def _save(module: ServingModule, model: AudioClassifier, folder: pathlib.Path) -> None:
    names = label_names(model)
    # TensorFlow copies an asset from an existing file, so the labels are written next to `folder`.
    labels = folder.with_name(f"{folder.name}-labels")
    labels.mkdir()
    try:
        (labels / LABELS_FILE).write_text("".join(f"{x}\n" for x in names), encoding="utf-8")
        module.labels = tf.saved_model.Asset(str(labels / LABELS_FILE))
        tf.saved_model.save(module, str(folder), signatures=_signatures(module, model, names))
    finally:
        shutil.rmtree(labels)
    _set_classify_method(folder)


def _signatures(
    module: ServingModule, model: AudioClassifier, names: tuple[str, ...]
) -> dict[str, Any]:
    waveform = tf.TensorSpec((None, None), tf.float32, name="waveform")
    lengths = tf.TensorSpec((None,), tf.int32, name="lengths")
    audio_bytes = tf.TensorSpec((None,), tf.string, name="audio_bytes")
    wav_frontend = _WavFrontend(module, model.frontend)

    @tf.function(input_signature=[waveform])
    def serving_default(waveform):
        return {"scores": module.scores(waveform)}

    @tf.function(input_signature=[waveform, lengths])
    def serving_lengths(waveform, lengths):
        return {"scores": module.scores(waveform, lengths)}

    @tf.function(input_signature=[audio_bytes])
    def serving_bytes(audio_bytes):
        spectrograms, frames = wav_frontend.spectrograms(audio_bytes)
        return {"scores": module.scores_from_spectrogram(spectrograms, frames)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="inputs")])
    def classify(inputs):
        feature = {"audio_bytes": tf.io.FixedLenFeature((), tf.string)}
        audio_bytes = tf.io.parse_example(inputs, feature)["audio_bytes"]
        spectrograms, frames = wav_frontend.spectrograms(audio_bytes)
        scores = module.scores_from_spectrogram(spectrograms, frames)
        return {"classes": tf.tile([names], [tf.shape(scores)[0], 1]), "scores": scores}

    @tf.function(input_signature=[waveform])
    def embed(waveform):
        pooled, tokens = module.embeddings(waveform)
        return {"pooled": pooled, "tokens": tokens}

    functions = (serving_default, serving_lengths, serving_bytes, classify, embed)
    return {f.__name__: f.get_concrete_function() for f in functions}


class _WavFrontend:
    """Decodes WAV files in the graph and computes their spectrograms."""

    def __init__(self, module: ServingModule, frontend: Any) -> None:
        self._module = module
        self._rate = frontend.sample_rate
        self._num_frames, self._num_mel_bins = frontend.num_frames, frontend.num_mel_bins

    def spectrograms(self, files):
        """Returns spectrograms and the valid frames of each, None if all have the same number.

        Args:
            files: String tensor `[batch]`, 16-bit PCM WAV files of any length.

        Returns:
            float32 `[batch, frames, mel]`, and int32 `[batch]` or None.
        """
        if not self._module.any_length:
            shape = tf.TensorSpec((self._num_frames, self._num_mel_bins), tf.float32)
            return tf.map_fn(self._spectrogram, files, fn_output_signature=shape), None
        ragged = tf.RaggedTensorSpec((None, self._num_mel_bins), tf.float32, ragged_rank=0)
        rows = tf.map_fn(self._spectrogram, files, fn_output_signature=ragged)
        padded = rows.to_tensor(shape=[None, None, self._num_mel_bins])
        return padded, tf.cast(rows.row_lengths(), tf.int32)

    def _spectrogram(self, file):
        # One file at a time: a batch would need padding, which is not part of any recording.
        return self._module.spectrogram(decode_wav(file, self._rate)[None])[0]


def _set_classify_method(folder: pathlib.Path) -> None:
    """Gives the signature `classify` the method name of TensorFlow Serving's Classify call."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString(path.read_bytes())
    for meta in saved.meta_graphs:
        meta.signature_def["classify"].method_name = tf.saved_model.CLASSIFY_METHOD_NAME
    path.write_bytes(saved.SerializeToString(deterministic=True))
