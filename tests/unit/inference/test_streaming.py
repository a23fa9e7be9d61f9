"""Streams: pushed in pieces of any size, equal to the model on that sound, in constant memory."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import soundfile
import soxr
import tensorflow as tf

import ast_keras
from ast_keras import listen
from ast_keras.errors import InferenceError
from ast_keras.inference.streaming import StreamingClassifier, StreamingFilterbank
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.weights.build import to_causal

RATE = 16000
# float32 sums in another order, on scores: seen 5e-7.
SCORES = 1e-5


def make_model(**settings):
    keras.utils.set_random_seed(1)
    model = ast_keras.from_preset("ast_test", num_classes=5, num_frames=310, **settings)
    for weight in model.backbone.weights:
        if weight.path.endswith(("qkv/kernel", "positions/embedding")):
            weight.assign(8 * weight)
    model.head.kernel.assign(20 * model.head.kernel)
    return model


@pytest.fixture(scope="module")
def sound():
    """9.08 s of noise whose loudness changes."""
    rng = np.random.default_rng(0)
    loudness = np.repeat(10 ** rng.uniform(-3, -0.5, 40), 4000)[:145_234]
    return (rng.uniform(-1, 1, 145_234) * loudness).astype("float32")


@pytest.fixture(scope="module", params=["original", "masked"])
def model(request):
    return make_model(padding=request.param)


def pieces_of(sound, largest, seed=0):
    rng, first = np.random.default_rng(seed), 0
    while first < len(sound):
        size = int(rng.integers(0, largest + 1))
        yield sound[first : first + size]
        first += size


def all_results(stream, pieces):
    return [r for piece in pieces for r in stream.push(piece)] + stream.flush()


# --- The filterbank ---


@pytest.mark.parametrize("largest", [1, 7, 160, 1601, 48_000, 145_234])
def test_filterbank_equals_the_offline_one(sound, largest):
    part = sound[: 3000 if largest == 1 else None]
    frontend = LogMelFilterbank(num_frames=310)
    fbank = StreamingFilterbank(frontend)
    frames = np.concatenate([fbank.push(piece) for piece in pieces_of(part, largest)])
    expected = LogMelFilterbank(remove_waveform_mean=False)(part[None])[0]
    assert frames.shape == expected.shape
    # The same arithmetic on the same frames.
    np.testing.assert_allclose(frames, expected, rtol=0, atol=1e-6)


def test_filterbank_begins_anew_after_reset(sound):
    fbank = StreamingFilterbank(LogMelFilterbank())
    first = fbank.push(sound[:1000])
    fbank.reset()
    np.testing.assert_array_equal(fbank.push(sound[:1000]), first)


# --- Windows ---


@pytest.mark.parametrize(
    ("window", "hop"), [(None, None), (3.0, 0.3), (2.0, 2.0), (0.5, 0.1), (1.3, 0.7)]
)
def test_result_equals_the_model_on_the_window(model, sound, window, hop):
    fresh = make_model(padding=model.padding)
    fresh.frontend.remove_waveform_mean = False
    stream = StreamingClassifier(model, window, hop)
    results = all_results(stream, pieces_of(sound, 30_000))
    assert len(results) == -(-len(sound) // round(stream.hop_seconds * RATE))
    scores = np.stack([r.scores for r in results])
    assert np.ptp(scores, axis=0).max() > 0.01
    compute = tf.function(
        lambda clip: fresh.scores(fresh(clip)), input_signature=[tf.TensorSpec((1, None))]
    )
    for number, result in enumerate(results):
        begin, end = (round(s * RATE) for s in (result.start_seconds, result.end_seconds))
        assert end == min(round((number + 1) * stream.hop_seconds * RATE), len(sound))
        assert end - begin <= round(stream.window_seconds * RATE)
        expected = compute(sound[None, begin:end])[0]
        np.testing.assert_allclose(result.scores, expected, rtol=0, atol=SCORES)
    if len(results) > 12:
        middle = results[-2]
        assert middle.end_seconds - middle.start_seconds == pytest.approx(stream.window_seconds)


def test_chunking_makes_no_difference(model, sound):
    stream = StreamingClassifier(model, 1.0, 0.5)
    whole = all_results(stream, [sound[:40_000]])
    for largest in (37, 999, 48_000):
        parts = all_results(stream, pieces_of(sound[:40_000], largest))
        assert [(r.start_seconds, r.end_seconds) for r in parts] == [
            (r.start_seconds, r.end_seconds) for r in whole
        ]
        for one, other in zip(parts, whole, strict=True):
            np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-6)


def test_default_window_is_what_the_model_hears_in_whole_seconds():
    assert StreamingClassifier(make_model()).window_seconds == 3.0
    ten = ast_keras.from_preset("ast_test", num_classes=2, num_frames=1024)
    stream = StreamingClassifier(ten)
    assert (stream.window_seconds, stream.hop_seconds) == (10.0, 1.0)


def test_nothing_is_embedded_twice(sound):
    model = make_model(padding="masked")
    stream = StreamingClassifier(model, 3.0, 0.5)
    embed, seen = stream._engine._embed, []
    stream._engine._embed = lambda frames: seen.append(len(frames)) or embed(frames)
    stream.push(sound[: 8 * RATE])
    columns = [(frames - 16) // 10 + 1 for frames in seen]
    # Of eight seconds there are 799 patches' beginnings in steps of 10 frames, less the last one's.
    assert sum(columns) == (count := (798 - 16) // 10 + 1), (columns, count)


def test_causal_stream_equals_the_whole_sound(sound):
    model = to_causal(make_model(), block_columns=5, past_blocks=3)
    stream = StreamingClassifier(model)
    assert (stream.hop_seconds, stream.window_seconds) == (0.5, 2.0)
    results = all_results(stream, pieces_of(sound, 20_000))
    tokens = model.backbone(model.spectrogram(sound[None]))
    expected = model.scores(model.classify(model.backbone.pool_blocks(tokens)))[0]
    np.testing.assert_allclose([r.scores for r in results], expected, rtol=0, atol=SCORES)
    assert [r.start_seconds for r in results[:3]] == [0.0, 0.5, 1.0]


def test_other_rate_is_resampled(sound):
    model = make_model(padding="masked")
    loud = soxr.resample(sound, RATE, 44_100, quality="HQ")
    stream = StreamingClassifier(model, 2.0, 1.0, input_rate=44_100)
    results = all_results(stream, pieces_of(loud, 50_000))
    again = soxr.resample(loud, 44_100, RATE, quality="HQ")
    expected = all_results(StreamingClassifier(model, 2.0, 1.0), [again])
    assert len(results) == len(expected) == 10
    for one, other in zip(results, expected, strict=True):
        # The resampler in pieces rounds otherwise than in one go.
        np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16"])
def test_half_precision_stream_runs(sound, policy):
    stream = StreamingClassifier(make_model(dtype=policy), 2.0, 1.0)
    exact = StreamingClassifier(make_model(), 2.0, 1.0)
    for one, other in zip(stream.push(sound), exact.push(sound), strict=True):
        # bfloat16 has eight bits; the scores are probabilities.
        np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=0.1)


def test_memory_does_not_grow(sound):
    def resident():
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096

    if not pathlib.Path("/proc/self/statm").exists():
        pytest.skip("memory is read from /proc")
    stream = StreamingClassifier(make_model(padding="masked"), 1.0, 1.0)
    for _ in range(20):
        stream.push(sound)
    before = resident()
    for _ in range(60):  # nine minutes; 35 MB of samples, 28 MB of frames
        stream.push(sound)
    assert resident() - before < 8 << 20  # TensorFlow 2.16 keeps 1 KB of each hop


# --- Errors ---


def test_another_rate_is_an_error():
    stream = StreamingClassifier(make_model())
    with pytest.raises(InferenceError, match="input_rate=44100"):
        stream.push(np.zeros(10), sample_rate=44_100)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (np.array([0.1, np.nan, 0.2]), "nan at sample 1 of 3"),
        (np.array([0.1, 0.2, -np.inf]), "-inf at sample 2 of 3"),
        (np.array([100, 200], "int16"), "divide int16 by 32768"),
        (np.array([3000.0]), "a peak of 3000"),
        (np.zeros((10, 2)), "average the channels first"),
    ],
)
def test_what_is_no_sound_is_refused_and_the_stream_goes_on(sound, samples, words):
    model = make_model(padding="masked")
    stream, untroubled = (StreamingClassifier(model, 1.0, 0.5) for _ in range(2))
    stream.push(sound[:7000])
    with pytest.raises(InferenceError, match=words):
        stream.push(samples)
    expected = untroubled.push(sound[:20_000])
    for one, other in zip(stream.push(sound[7000:20_000]), expected, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"window_seconds": 10.0}, r'hears 3.12 s at once.*padding="masked"'),
        ({"hop_seconds": 0.25}, "multiple of 0.1 s, the time between two patches: take 0.2"),
        ({"hop_seconds": 0.0}, "take 0.1"),
        ({"hop_seconds": float("nan")}, "take 0.1"),
        ({"window_seconds": 1.0, "hop_seconds": 2.0}, "must not be longer than the window"),
    ],
)
def test_window_or_hop_that_does_not_fit_is_an_error(arguments, words):
    with pytest.raises(InferenceError, match=words):
        StreamingClassifier(make_model(), **arguments)


def test_longer_window_is_heard_by_a_masked_model(sound):
    stream = StreamingClassifier(make_model(padding="masked"), 6.0, 3.0)
    assert len(stream.push(sound)) == 3


def test_causal_model_has_its_own_hop():
    model = to_causal(make_model(), block_columns=5, past_blocks=3)
    with pytest.raises(InferenceError, match=r"hop_seconds of its own, 0.5 s"):
        StreamingClassifier(model, hop_seconds=1.0)


def test_model_of_spectrograms_is_refused():
    with pytest.raises(InferenceError, match="takes spectrograms"):
        StreamingClassifier(
            ast_keras.from_preset("ast_test", num_classes=2, num_frames=98, frontend=None)
        )


# --- The command ---


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    ast_keras.save_to_preset(make_model(), folder)
    return folder


def start(saved, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "ast_keras.listen", "--model", str(saved), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        cwd=pathlib.Path(listen.__file__).parents[1],
    )


@pytest.mark.slow
def test_command_hears_a_file_in_its_own_time(saved, sound, tmp_path):
    soundfile.write(tmp_path / "sound.wav", sound[: 3 * RATE + 1000], RATE)
    began = time.monotonic()
    process = start(saved, "--file", str(tmp_path / "sound.wav"), "--hop_seconds", "0.5")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    lines = output.splitlines()
    assert time.monotonic() - began > 3.0
    assert len(lines) == 7
    assert lines[0].split()[:2] == ["0.0", "0.5"]
    assert lines[-1].split()[1] == "3.1"


def test_command_hears_a_microphone_until_it_is_stopped(saved, tmp_path):
    # A stand-in for sounddevice: noise, from a thread of its own, as PortAudio does.
    (tmp_path / "sounddevice.py").write_text(
        """
import threading, time
import numpy as np

class InputStream:
    def __init__(self, samplerate, blocksize, channels, dtype, callback):
        assert (samplerate, blocksize, channels, dtype) == (16000, 1600, 1, "float32")
        self.callback = callback

    def __enter__(self):
        threading.Thread(target=self.play, daemon=True).start()

    def __exit__(self, *error):
        pass

    def play(self):
        while True:
            self.callback(np.random.rand(1600, 1).astype("float32"), 1600, None, None)
            time.sleep(0.02)
"""
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = start(saved, "--threshold", "0.9", PYTHONPATH=path)
    for _ in range(5):
        line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert line.split()[:2] == ["2.0", "5.0"], (line, errors)
    assert "(" in line  # below the threshold
    assert errors.splitlines()[-1].startswith("Heard "), errors
    assert process.returncode == 0


def test_command_says_what_the_microphone_needs(saved, tmp_path):
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = start(saved, PYTHONPATH=path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1] == (
        "error: The microphone needs sounddevice: pip install sounddevice. Received: "
        "PortAudio library not found"
    )
