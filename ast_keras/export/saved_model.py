"""A SavedModel for TensorFlow Serving: sound in, scores or embeddings out."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from ast_keras.errors import ExportError
from ast_keras.export.acceptance import DEFAULT_TOLERANCE, Report, Tolerance, compare
from ast_keras.export.isolated_run import measure
from ast_keras.export.reference_clips import comparison_clips, keras_scores
from ast_keras.export.serving_module import ServedGraph, default_num_samples, label_names
from ast_keras.export.serving_warmup import require_serving, write_warmup
from ast_keras.files import replacing_folder, write_json
from ast_keras.models.ast_classifier import ASTClassifier

LABELS_FILE = "labels.txt"
REPORT_FILE = "report.json"


def export_saved_model(
    model: ASTClassifier,
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
    """Writes a classifier as a new version in a folder that TensorFlow Serving watches.

    | signature | takes | gives |
    |---|---|---|
    | `serving_default` | `waveform` float32 `[batch, samples]` in [-1, 1] | `scores` |
    | `serving_lengths` | `waveform`, and `lengths` int32 `[batch]` in samples | `scores` |
    | `serving_bytes` | `audio_bytes` string `[batch]`, 16-bit PCM WAV files | `scores` |
    | `classify` | tf.Examples with a feature `audio_bytes` | `classes`, `scores` |
    | `embed` | `waveform`, as above | `pooled`, `tokens` |

    Sounds of any length: what is shorter than the model hears is padded as in training, file by
    file, and with `padding="masked"` all of each is heard. Sounds in WAV files must have the
    model's sample rate; their channels are averaged. The weights are stored once, the labels
    are an asset, and warm-up requests lie beside. The version is written to one side, run in a
    new process, compared with the model, and moved to its place as a whole, since a server
    reads what it finds.

    Args:
      model: An `ASTClassifier` with a frontend.
      folder: The model's base path; its name is the served model's.
      version: A positive number; None for one more than the highest there is.
      overwrite: Whether the version may be replaced if it exists.
      method: Of the filterbank: "conv" is read by other runtimes than TensorFlow, too; "fft" is
        exact where float32 is not (see `LogMelFilterbank`).
      clips: A folder of sounds to compare on; None for rendered ones.
      num_clips: How many clips to compare on.
      bounds: How near the scores must stay to the model's; None for `DEFAULT_TOLERANCE`.
      num_threads: Of the run that is measured.

    Returns the version's folder and the report, which is in it as report.json.

    Raises:
      ExportError: If the model takes spectrograms, the version exists, something is not installed,
        or the bounds are missed; nothing is written then.

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
            f"The version exists: add --overwrite, or leave --version out. Received: {target}"
        )
    require_serving()
    graph = ServedGraph(model, method)
    num_samples = default_num_samples(model)
    waveforms, source = comparison_clips(model, num_samples, clips, num_clips)
    with replacing_folder(target) as part:
        _save(graph, model, part)
        rate = model.frontend.sample_rate
        write_warmup(part, base.resolve().name, num_samples, rate)
        report = compare(
            "saved_model",
            source,
            bounds or DEFAULT_TOLERANCE["saved_model"],
            keras_scores(model, waveforms),
            measure("saved_model", part, waveforms, num_threads),
            size_bytes=sum(p.stat().st_size for p in part.rglob("*") if p.is_file()),
            operators=operators(part),
        )
        if report.missed:
            raise ExportError(f"The export misses its bound: {report.missed}. Nothing was written")
        write_json(part / REPORT_FILE, report.to_dict())
    return target, report


def operators(folder: str | os.PathLike[str]) -> dict[str, int]:
    """Returns how often each operator occurs in a SavedModel, functions included."""
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
        raise ExportError(f"A version is a positive number. Received: version={version}")
    return version


def _versions(base: pathlib.Path) -> Iterator[int]:
    if base.exists() and not base.is_dir():
        raise ExportError(f"Name a folder, not a file. Received: {base}")
    for path in base.iterdir() if base.is_dir() else ():
        if path.name.isdecimal():
            yield int(path.name)


def _save(graph: ServedGraph, model: ASTClassifier, folder: pathlib.Path) -> None:
    names = label_names(model, None)
    # Written where it will lie: TensorFlow copies an asset from somewhere.
    labels = folder.with_name(f"{folder.name}-labels")
    labels.mkdir()
    try:
        (labels / LABELS_FILE).write_text("".join(f"{x}\n" for x in names), encoding="utf-8")
        graph.labels = tf.saved_model.Asset(str(labels / LABELS_FILE))
        tf.saved_model.save(graph, str(folder), signatures=_signatures(graph, model, names))
    finally:
        shutil.rmtree(labels)
    _mark_as_classify(folder)


def _signatures(graph: ServedGraph, model: ASTClassifier, names: tuple[str, ...]) -> dict[str, Any]:
    waveform = tf.TensorSpec((None, None), tf.float32, name="waveform")
    encoded = tf.TensorSpec((None,), tf.string, name="audio_bytes")
    hear = _wav_reader(graph, model.frontend)

    @tf.function(input_signature=[waveform])
    def serving_default(waveform):
        return {"scores": graph.scores(waveform)}

    @tf.function(input_signature=[waveform, tf.TensorSpec((None,), tf.int32, name="lengths")])
    def serving_lengths(waveform, lengths):
        return {"scores": graph.scores(waveform, lengths)}

    @tf.function(input_signature=[encoded])
    def serving_bytes(audio_bytes):
        return {"scores": graph.classified(*hear(audio_bytes))}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="inputs")])
    def classify(inputs):
        feature = {"audio_bytes": tf.io.FixedLenFeature((), tf.string)}
        audio_bytes = tf.io.parse_example(inputs, feature)["audio_bytes"]
        scores = graph.classified(*hear(audio_bytes))
        return {"classes": tf.tile([names], [tf.shape(scores)[0], 1]), "scores": scores}

    @tf.function(input_signature=[waveform])
    def embed(waveform):
        pooled, tokens = graph.embeddings(waveform)
        return {"pooled": pooled, "tokens": tokens}

    functions = (serving_default, serving_lengths, serving_bytes, classify, embed)
    return {f.__name__: f.get_concrete_function() for f in functions}


def _wav_reader(
    graph: ServedGraph, frontend: Any
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor | None]]:
    """Returns the function from WAV files `[batch]` to spectrograms `[batch, frames, mel]`.

    It gives the frames of each, too, where they may be of any length, else None.
    """
    rate = frontend.sample_rate

    def spectrogram(contents):
        audio, found = tf.audio.decode_wav(contents)  # [samples, channels]
        message = f"The sound must be sampled at {rate} Hz: resample it before it is sent"
        with tf.control_dependencies([tf.debugging.assert_equal(found, rate, message)]):
            waveform = tf.reduce_mean(audio, axis=1)
        # Each by itself: sounds of one batch have different lengths, and padding is not sound.
        return graph.spectrogram(waveform[None])[0]

    if not graph.any_length:
        shape = tf.TensorSpec((frontend.num_frames, frontend.num_mel_bins), tf.float32)
        return lambda files: (tf.map_fn(spectrogram, files, fn_output_signature=shape), None)
    ragged = tf.RaggedTensorSpec((None, frontend.num_mel_bins), tf.float32, ragged_rank=0)

    def spectrograms(files):
        found = tf.map_fn(spectrogram, files, fn_output_signature=ragged)
        padded = found.to_tensor(shape=[None, None, frontend.num_mel_bins])
        return padded, tf.cast(found.row_lengths(), tf.int32)

    return spectrograms


def _mark_as_classify(folder: pathlib.Path) -> None:
    """Gives `classify` the method name that the Classify call of TensorFlow Serving wants."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString(path.read_bytes())
    for meta in saved.meta_graphs:
        meta.signature_def["classify"].method_name = tf.saved_model.CLASSIFY_METHOD_NAME
    path.write_bytes(saved.SerializeToString(deterministic=True))
