"""Streams: results equal the model on each window, for pieces of any size, in constant memory."""

import pathlib

import numpy as np
import pytest
import soxr
import tensorflow as tf

from ast_keras.errors import ArgumentError, InferenceError
from ast_keras.inference.streaming import StreamingClassifier, StreamingFilterbank
from ast_keras.inference.streaming.window_engine import WindowEngine
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.weights.build import to_causal
from tests.helpers.audio import RATE
from tests.helpers.models import expressive_classifier, tiny_classifier

# float32 sums in another order, on scores; the scaled head multiplies the differences. Measured:
# 5e-7 with AVX2, 1.1e-5 with oneDNN limited to SSE4.1.
SCORES = 5e-5
LENGTH = 97_234  # samples, 6.08 s: a multiple of no hop


def make_model(padding="original", **settings):
    return expressive_classifier(num_classes=5, num_frames=310, padding=padding, **settings)


@pytest.fixture(scope="module")
def sound():
    """Noise whose loudness changes."""
    rng = np.random.default_rng(0)
    loudness = np.repeat(10 ** rng.uniform(-3, -0.5, 40), 4000)[:LENGTH]
    return (rng.uniform(-1, 1, LENGTH) * loudness).astype("float32")


@pytest.fixture(scope="module")
def masked():
    return make_model(padding="masked")


@pytest.fixture(scope="module")
def original():
    return make_model()


@pytest.fixture(scope="module")
def causal(original):
    return to_causal(original, block_columns=5, past_blocks=3)


@pytest.fixture(scope="module")
def stream(masked):
    """A stream that is compiled once; tests reset it."""
    return StreamingClassifier(masked, 1.0, 0.5)


def pieces_of(sound, largest, seed=0):
    rng, first = np.random.default_rng(seed), 0
    while first < len(sound):
        size = int(rng.integers(0, largest + 1))
        yield sound[first : first + size]
        first += size


def all_results(stream, pieces):
    stream.reset()
    return [r for piece in pieces for r in stream.push(piece)] + stream.flush()


# --- The filterbank ---


def test_filterbank_equals_the_layer_for_pieces_of_any_size(sound):
    fbank = StreamingFilterbank(LogMelFilterbank(num_frames=310))
    layer = LogMelFilterbank(remove_waveform_mean=False)
    for largest in (1, 7, 160, 1601, 48_000, LENGTH):
        part = sound[: 3000 if largest < 100 else None]
        fbank.reset()
        frames = np.concatenate([fbank.push(piece) for piece in pieces_of(part, largest)])
        expected = layer(part[None])[0]
        assert frames.shape == expected.shape, largest
        # The same frames in other batches, whose products may be summed in another order: 1e-6
        # relative in an energy, which is a ninth of that after the logarithm and the division.
        np.testing.assert_allclose(frames, expected, rtol=0, atol=5e-6, err_msg=str(largest))


def test_filterbank_starts_a_new_stream_after_reset(sound):
    fbank = StreamingFilterbank(LogMelFilterbank())
    first = fbank.push(sound[:1000])
    fbank.reset()
    np.testing.assert_array_equal(fbank.push(sound[:1000]), first)


# --- Windows ---


@pytest.fixture(scope="module", params=["original", "masked"])
def model_and_reference(request):
    """A model, and a compiled function that gives the scores of one window."""
    reference = make_model(padding=request.param)
    reference.frontend.remove_waveform_mean = False
    compute = tf.function(
        lambda clip: reference.scores(reference(clip)), input_signature=[tf.TensorSpec((1, None))]
    )
    return request.getfixturevalue(request.param), compute


@pytest.mark.parametrize(("window", "hop"), [(None, None), (3.0, 0.3), (0.5, 0.1), (1.3, 0.7)])
def test_result_equals_the_model_on_the_window(model_and_reference, sound, window, hop):
    model, compute = model_and_reference
    stream = StreamingClassifier(model, window, hop)
    results = all_results(stream, pieces_of(sound, 30_000))
    assert len(results) == -(-len(sound) // round(stream.hop_seconds * RATE))
    scores = np.stack([r.scores for r in results])
    assert np.ptp(scores, axis=0).max() > 0.01
    for number, result in enumerate(results):
        begin, end = (round(s * RATE) for s in (result.start_seconds, result.end_seconds))
        assert end == min(round((number + 1) * stream.hop_seconds * RATE), len(sound))
        assert end - begin <= round(stream.window_seconds * RATE)
        expected = compute(sound[None, begin:end])[0]
        np.testing.assert_allclose(result.scores, expected, rtol=0, atol=SCORES)
    if len(results) > 12:
        middle = results[-2]
        assert middle.end_seconds - middle.start_seconds == pytest.approx(stream.window_seconds)


def test_size_of_pieces_does_not_change_results(stream, sound):
    whole = all_results(stream, [sound[:40_000]])
    for largest in (37, 999, 48_000):
        parts = all_results(stream, pieces_of(sound[:40_000], largest))
        assert [(r.start_seconds, r.end_seconds) for r in parts] == [
            (r.start_seconds, r.end_seconds) for r in whole
        ]
        for one, other in zip(parts, whole, strict=True):
            np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=SCORES)


def test_default_window_is_the_length_of_the_model_in_whole_seconds(original):
    assert StreamingClassifier(original).window_seconds == 3.0
    stream = StreamingClassifier(tiny_classifier(num_frames=1024))
    assert (stream.window_seconds, stream.hop_seconds) == (10.0, 1.0)


def test_each_frame_is_embedded_once(masked, sound):
    engine = WindowEngine(masked, column_samples=1600, window_seconds=2.0, hop_seconds=0.5)
    fbank = StreamingFilterbank(masked.frontend)
    embed, num_embedded = engine.embed, []
    engine.embed = lambda frames: num_embedded.append(len(frames)) or embed(frames)
    for start in range(0, 6 * RATE, engine.hop_samples):
        piece = sound[start : start + engine.hop_samples]
        engine.consume(fbank.push(piece), len(piece))
    columns = [(frames - 16) // 10 + 1 for frames in num_embedded]
    # Six seconds have 598 frames; a patch has 16 and starts every 10.
    assert sum(columns) == (598 - 16) // 10 + 1, columns


def test_causal_stream_equals_the_whole_sound(causal, sound):
    stream = StreamingClassifier(causal)
    assert (stream.hop_seconds, stream.window_seconds) == (0.5, 2.0)
    results = all_results(stream, pieces_of(sound, 20_000))
    tokens = causal.backbone(causal.spectrogram(sound[None]))
    expected = causal.scores(causal.classify(causal.backbone.pool_blocks(tokens)))[0]
    np.testing.assert_allclose([r.scores for r in results], expected, rtol=0, atol=SCORES)
    assert [r.start_seconds for r in results[:3]] == [0.0, 0.5, 1.0]


def test_input_at_another_rate_is_resampled(masked, stream, sound):
    other_rate = soxr.resample(sound, RATE, 44_100, quality="HQ")
    resampling = StreamingClassifier(masked, 1.0, 0.5, input_rate=44_100)
    results = all_results(resampling, pieces_of(other_rate, 50_000))
    expected = all_results(stream, [soxr.resample(other_rate, 44_100, RATE, quality="HQ")])
    assert len(results) == len(expected) == 13
    for one, other in zip(results, expected, strict=True):
        # The resampler rounds differently in pieces.
        np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-4)


def test_half_precision_stream_is_close_to_float32(original, sound):
    half = StreamingClassifier(make_model(dtype="mixed_bfloat16"), 2.0, 1.0)
    exact = StreamingClassifier(original, 2.0, 1.0)
    for one, other in zip(half.push(sound), exact.push(sound), strict=True):
        # bfloat16 has eight significant bits; the scores are probabilities.
        np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=0.1)


def test_memory_does_not_grow(stream, sound):
    def resident_bytes():
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096

    if not pathlib.Path("/proc/self/statm").exists():
        pytest.skip("memory is read from /proc")
    stream.reset()
    for _ in range(15):
        stream.push(sound)
    before = resident_bytes()
    for _ in range(45):  # 4.5 minutes: 17 MB of samples, 14 MB of frames
        stream.push(sound)
    assert resident_bytes() - before < 8 << 20  # TensorFlow 2.16 leaks 1 KB per hop


# --- Errors ---


def test_samples_at_another_rate_are_rejected(stream):
    with pytest.raises(InferenceError, match="input_rate=44100"):
        stream.push(np.zeros(10), sample_rate=44_100)


def test_unusable_samples_are_rejected_and_the_stream_goes_on(stream, sound):
    stream.reset()
    expected = stream.push(sound[:20_000])
    stream.reset()
    results = stream.push(sound[:7000])
    for samples, words in [
        (np.array([0.1, np.nan, 0.2]), "nan at sample 1 of 3"),
        (np.array([0.1, 0.2, -np.inf]), "-inf at sample 2 of 3"),
        (np.array([100, 200], "int16"), "divide int16 by 32768"),
        (np.array([3000.0]), "a peak of 3000"),
        (np.zeros((10, 2)), "average the channels first"),
    ]:
        with pytest.raises(InferenceError, match=words):
            stream.push(samples)
    results += stream.push(sound[7000:20_000])
    for one, other in zip(results, expected, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"window_seconds": 10.0}, r'processes 3.12 s at once.*padding="masked"'),
        ({"hop_seconds": 0.25}, "multiple of 0.1 s, the time between two patches: choose 0.2"),
        ({"hop_seconds": 0.0}, "choose 0.1"),
        ({"hop_seconds": float("nan")}, "choose 0.1"),
        ({"window_seconds": 1.0, "hop_seconds": 2.0}, "must not be longer than the window"),
    ],
)
def test_window_or_hop_that_does_not_fit_is_rejected(original, arguments, words):
    with pytest.raises(InferenceError, match=words):
        StreamingClassifier(original, **arguments)


def test_masked_model_processes_a_longer_window(masked, sound):
    assert len(StreamingClassifier(masked, 6.0, 3.0).push(sound)) == 2


def test_causal_model_has_a_fixed_hop(causal):
    with pytest.raises(InferenceError, match=r"fixed hop_seconds of 0.5 s"):
        StreamingClassifier(causal, hop_seconds=1.0)


def test_model_of_spectrograms_is_rejected():
    with pytest.raises(ArgumentError, match="takes spectrograms"):
        StreamingClassifier(tiny_classifier(frontend=None))
