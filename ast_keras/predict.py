"""Names the sounds in files: `python -m ast_keras.predict --model DIR FILE...`.

A file may have any rate, length and number of channels, a folder stands for the sounds in it. The
model hears the length it was made for; what comes after is not heard, and a warning says so.
"""

from __future__ import annotations

import csv
import io
import json
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from absl import app, flags

from ast_keras.audio import AudioError, load_audio
from ast_keras.command import run_command
from ast_keras.datasets.audio_files import is_audio


class PredictError(ValueError):
    """Raised when the command line does not say what to predict."""


def main(argv: list[str]) -> int:
    paths = list(_files(argv[1:]))
    if flags.FLAGS.model is None or not paths:
        raise PredictError("Say with what and on what: --model DIR FILE...")
    from ast_keras.presets import from_preset

    predictor = Predictor(from_preset(flags.FLAGS.model))
    rows, failed = [], 0
    for path in paths:
        try:
            rows.append(predictor.predict(path, flags.FLAGS.top))
        except (AudioError, OSError) as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr)
    print(_WRITERS[flags.FLAGS.format](rows), end="")
    return 1 if failed else 0


class Predictor:
    """Classifies files with one model, compiled once for every length.

    Args:
      model: An `ASTClassifier` with a frontend.

    Raises:
      PredictError: If the model takes spectrograms.
    """

    def __init__(self, model: Any) -> None:
        import tensorflow as tf

        if model.frontend is None:
            raise PredictError("This model takes spectrograms, not sound: it has no frontend")
        self.model = model
        self.sample_rate: int = model.frontend.sample_rate
        self._scores = tf.function(
            lambda waveform: model.scores(model(waveform, training=False)),
            input_signature=[tf.TensorSpec((1, None), tf.float32)],
        )

    def predict(self, path: str, top: int = 5) -> dict[str, Any]:
        """Returns the file's name, length in seconds and most likely classes with their scores.

        Raises:
          AudioError: If the file cannot be read.
        """
        waveform = load_audio(path, self.sample_rate)
        frontend = self.model.frontend
        heard = frontend.num_samples
        # What is less than a frame is never heard, and not worth a word.
        if len(waveform) >= heard + round(frontend.frame_step_seconds * self.sample_rate):
            print(
                f"warning: {path} is {len(waveform) / self.sample_rate:.1f} s long, the model "
                f"hears the first {heard / self.sample_rate:.1f} s",
                file=sys.stderr,
            )
        scores = np.asarray(self._scores(waveform[None, :heard]))[0]
        best = np.argsort(-scores, kind="stable")[:top]
        return {
            "file": path,
            "seconds": round(len(waveform) / self.sample_rate, 3),
            "predictions": [self._prediction(index, scores[index]) for index in best],
        }

    def _prediction(self, index: int, score: float) -> dict[str, Any]:
        labels = self.model.labels
        name = labels.names[index] if labels else f"class {index}"
        return {"index": int(index), "label": name, "score": round(float(score), 6)}


def _files(arguments: Iterable[str]) -> Iterator[str]:
    for argument in arguments:
        path = pathlib.Path(argument)
        if path.is_dir():
            inside = sorted(str(p) for p in path.rglob("*") if is_audio(p.name) and p.is_file())
            if not inside:
                raise PredictError(f"There are no sounds in this folder. Received: {argument}")
            yield from inside
        else:
            yield argument


def _table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        lines.append(f"{row['file']}  ({row['seconds']:.2f} s)")
        lines += [f"  {p['score']:.4f}  {p['label']}" for p in row["predictions"]]
    return "".join(line + "\n" for line in lines)


def _json(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, indent=2) + "\n"


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "seconds", "rank", "index", "label", "score"])
    for row in rows:
        for rank, p in enumerate(row["predictions"], 1):
            writer.writerow([row["file"], row["seconds"], rank, p["index"], p["label"], p["score"]])
    return text.getvalue()


_WRITERS = {"table": _table, "json": _json, "csv": _csv}


def run() -> None:
    """Defines the flags and runs the command; also what the installed program calls."""
    flags.DEFINE_string("model", None, "Folder of a saved model (WORKDIR/model of a run).")
    flags.DEFINE_integer("top", 5, "How many classes to name for each file.", lower_bound=1)
    flags.DEFINE_enum("format", "table", ["table", "json", "csv"], "How to print.")
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()
