"""Scores of a TFLite file in MediaPipe's AudioClassifier: RESULT MODEL CLIPS RATE CHANNELS MODE."""

import sys

import numpy as np
from mediapipe.tasks.python import audio
from mediapipe.tasks.python.components.containers import AudioData
from mediapipe.tasks.python.core.base_options import BaseOptions

result, path, clips, rate, channels, mode = sys.argv[1:]
clips, rate, channels = np.load(clips), int(rate), int(channels)
streamed = []


def options(**more):
    return audio.AudioClassifierOptions(
        base_options=BaseOptions(model_asset_path=path), max_results=-1, **more
    )


def categories(answer):
    """Returns label and score of every class, in the order of the model's output."""
    found = sorted(answer.classifications[0].categories, key=lambda c: c.index)
    return [c.category_name for c in found], [c.score for c in found]


def data(clip):
    block = np.repeat(clip[:, None], channels, axis=1)  # [samples, channels]
    if channels == 2:
        # Two different channels whose mean is the clip.
        block = block + np.stack([clip, -clip], axis=1) / 2
    return AudioData.create_from_array(block.astype(np.float32), rate)


if mode == "clip":
    with audio.AudioClassifier.create_from_options(options()) as classifier:
        answers = [categories(classifier.classify(data(clip))[0]) for clip in clips]
else:
    stream = options(
        running_mode=audio.RunningMode.AUDIO_STREAM,
        result_callback=lambda answer, _: streamed.append(categories(answer)),
    )
    with audio.AudioClassifier.create_from_options(stream) as classifier:
        # Blocks of a tenth of a second, like those of a microphone.
        blocks = np.concatenate(clips).reshape(-1, rate // 10)
        for number, block in enumerate(blocks):
            classifier.classify_async(data(block), number * 100)
    answers = streamed[: len(clips)]
np.savez(result, labels=answers[0][0], scores=[scores for _, scores in answers])
