"""Attribution methods equal their definitions and find a planted sound."""

import re

import keras
import numpy as np
import pytest
import soundfile

import ast_keras
from ast_keras.errors import ArgumentError, InferenceError
from ast_keras.inference.explanation import (
    attention_map,
    attention_rollout,
    class_index,
    explain_file,
    gradient_times_input,
    occlusion,
    over_frames,
    special_attention,
    valid_spectrogram,
)
from ast_keras.labels import LabelSet
from tests.helpers.audio import RATE
from tests.helpers.models import tiny_classifier
from tests.helpers.paths import GOLDENS

CHIRP_SECONDS = 0.15
NUM_CLIPS = 4


def noisy_clips(count, seed):
    """Returns clips of 1.2 s, whether each has a chirp, and the time of its centre."""
    rng = np.random.default_rng(seed)
    length, size = round(1.2 * RATE), round(CHIRP_SECONDS * RATE)
    clips = 0.03 * rng.standard_normal((count, length)).astype("float32")
    present = rng.integers(0, 2, count)
    starts = rng.integers(0, length - size, count)
    time = np.arange(size) / RATE
    chirp = 0.3 * np.hanning(size) * np.sin(2 * np.pi * (700 + 900 * time / CHIRP_SECONDS) * time)
    for clip, is_present, start in zip(clips, present, starts, strict=True):
        clip[start : start + size] += is_present * chirp
    return clips, present.astype("float32"), starts / RATE + CHIRP_SECONDS / 2


@pytest.fixture(scope="module")
def trained():
    """A small model trained, in about 10 s, to detect a chirp in noise."""
    keras.utils.set_random_seed(1)
    model = ast_keras.from_preset(
        "ast_test",
        labels=LabelSet(("chirp",)),
        num_frames=118,
        patch_size=(128, 4),
        strides=(128, 4),
        use_distillation_token=False,
        score_activation="sigmoid",
    )
    clips, present, _ = noisy_clips(600, seed=0)
    parts = [model.spectrogram(clips[i : i + 100]) for i in range(0, 600, 100)]
    on_spectrograms = ast_keras.ASTClassifier(model.backbone, 1)
    schedule = ast_keras.WarmupCosineSchedule(1e-3, warmup_steps=60, total_steps=150)
    on_spectrograms.compile(
        keras.optimizers.Adam(schedule), keras.losses.BinaryCrossentropy(from_logits=True)
    )
    on_spectrograms.fit(np.concatenate(parts), present, batch_size=20, epochs=5, verbose=0)
    model.head.set_weights(on_spectrograms.head.get_weights())
    model.head_norm.set_weights(on_spectrograms.head_norm.get_weights())
    return model


@pytest.fixture(scope="module")
def planted():
    """Unseen clips with a chirp, and the times of its centre."""
    clips, present, middles = noisy_clips(40, seed=7)
    return clips[present > 0][:NUM_CLIPS], middles[present > 0][:NUM_CLIPS]


def peak_seconds(evidence):
    """Returns the time at which evidence, summed over frequency and 150 ms, is highest."""
    over_time = np.convolve(evidence.sum(axis=1), np.ones(15) / 15, "same")
    return 0.010 * int(over_time.argmax()) + 0.0125


# Measured: at most 0.1 s with the gradient, 0.03 s with occlusion.
@pytest.mark.parametrize("method", [gradient_times_input, occlusion])
def test_planted_sound_is_found_within_160_ms(trained, planted, method):
    clips, middles = planted
    scores = trained.scores(trained(clips)).numpy()[:, 0]
    assert (scores > 0.5).all()
    found = [peak_seconds(method(trained, clip, 0)) for clip in clips]
    np.testing.assert_allclose(found, middles, rtol=0, atol=0.160)


def test_attention_lies_on_the_planted_sound(trained, planted):
    clips, middles = planted
    for method in (attention_rollout, attention_map):
        maps = [over_frames(trained.backbone, method(trained, clip), 118) for clip in clips]
        found = np.array([peak_seconds(evidence) for evidence in maps])
        np.testing.assert_allclose(found, middles, rtol=0, atol=0.160)


def test_occlusion_of_the_sound_removes_the_class(trained, planted):
    clips, middles = planted
    evidence = occlusion(trained, clips[0], 0, num_bands=8)
    # The chirp lies between 700 and 2500 Hz, bins 30 to 80 of 128.
    frame = round(middles[0] * 100)
    near = evidence[frame - 10 : frame + 10, 25:85].sum()
    assert near > 0.8 * np.abs(evidence).sum()


def test_attention_equals_the_authors():
    stored = np.load(GOLDENS / "original_small.npz")
    file = GOLDENS / "original_small.safetensors"
    model = ast_keras.from_preset(file, num_heads=3, num_frames=256, frontend=None)
    found = special_attention(model.backbone, stored["x"][:1])
    # float32 products, summed in another order.
    np.testing.assert_allclose(found, stored["attention"], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def model():
    made = tiny_classifier(num_frames=128)
    made.labels = LabelSet(("dog", "cow", "hen"), ("/d", "/c", "/h"))
    return made


@pytest.fixture(scope="module")
def waveform():
    return np.random.default_rng(0).uniform(-0.1, 0.1, 16000).astype("float32")


def test_rollout_equals_its_definition(model, waveform):
    weights = model.backbone.attention_weights(model.spectrogram(waveform[None]))
    flow = np.eye(146)
    for block in weights:
        mixed = 0.5 * block[0].numpy().astype("float64").mean(axis=0) + 0.5 * np.eye(146)
        flow = (mixed / mixed.sum(axis=1, keepdims=True)) @ flow
    expected = flow[:2].mean(axis=0)[2:].reshape(12, 12)[:, :10]  # 98 frames are valid
    np.testing.assert_allclose(attention_rollout(model, waveform), expected, rtol=0, atol=1e-7)


def test_attention_map_selects_head_and_layer(model, waveform):
    weights = model.backbone.attention_weights(model.spectrogram(waveform[None]))
    row = weights[0][0, 1, :2].numpy().mean(axis=0)[2:].reshape(12, 12)[:, :10]
    found = attention_map(model, waveform, layer=0, head=1)
    np.testing.assert_allclose(found, row, rtol=0, atol=1e-7)
    last = weights[-1][0, :, :2].numpy().mean(axis=(0, 1))[2:].reshape(12, 12)[:, :10]
    np.testing.assert_allclose(attention_map(model, waveform), last, rtol=0, atol=1e-7)


def test_gradient_evidence_adds_up_to_the_difference_of_logits(model, waveform):
    evidence = gradient_times_input(model, waveform, 1, steps=16)
    spectrogram = model.spectrogram(waveform[None]).numpy()
    mean = spectrogram.copy()
    mean[0, :98] = mean[0, :98].mean(axis=0)
    sound, baseline = (
        float(model.classify(model.pool(model.backbone(x)))[0, 1]) for x in (spectrogram, mean)
    )
    # A sum of 16 points instead of an integral, and float32 logits.
    assert evidence.sum() == pytest.approx(sound - baseline, rel=0.01, abs=1e-6)


def test_gradient_with_one_step_is_the_slope_at_the_sound(model, waveform):
    evidence = gradient_times_input(model, waveform, 1, steps=1)
    assert evidence.shape == (98, 128)
    spectrogram = model.spectrogram(waveform[None]).numpy()
    direction = np.zeros_like(spectrogram)
    direction[0, :98] = spectrogram[0, :98] - spectrogram[0, :98].mean(axis=0)

    def logit(distance):
        moved = (spectrogram + distance * direction).astype("float32")
        return float(model.classify(model.pool(model.backbone(moved)))[0, 1])

    slope = (logit(1e-2) - logit(-1e-2)) / 2e-2
    # A difference quotient of float32 logits: 1e-7 / 2e-2, and curvature.
    assert evidence.sum() == pytest.approx(slope, abs=2e-5 + 0.01 * abs(slope))


def test_occlusion_equals_a_computation_one_region_at_a_time(model, waveform):
    found = occlusion(model, waveform, 2, width_seconds=0.4, hop_seconds=0.2, num_bands=2)
    spectrogram = model.spectrogram(waveform[None]).numpy()

    def logit(x):
        return float(model.classify(model.pool(model.backbone(x)))[0, 2])

    whole, mean = logit(spectrogram), spectrogram[0, :98].mean(axis=0)
    falls = [[[] for _ in range(2)] for _ in range(98)]
    for first in range(-20, 98, 20):
        for band in range(2):
            covered = spectrogram.copy()
            frames = range(max(first, 0), min(first + 40, 98))
            for frame in frames:
                covered[0, frame, 64 * band : 64 * band + 64] = mean[64 * band : 64 * band + 64]
            fall = whole - logit(covered)
            for frame in frames:
                falls[frame][band].append(fall)
    expected = np.array([[np.mean(falls[frame][band]) for band in range(2)] for frame in range(98)])
    # Differences of float32 logits, computed in batches of another size: sums in another order.
    np.testing.assert_allclose(found[:, [0, 64]], expected, rtol=0, atol=5e-6)
    np.testing.assert_array_equal(found[:, :64], np.repeat(found[:, :1], 64, axis=1))


def test_masked_model_explains_any_length(waveform):
    masked = tiny_classifier(padding="masked")
    long = np.tile(waveform, 2)
    assert gradient_times_input(masked, long, 0, steps=2).shape == (198, 128)
    assert attention_rollout(masked, long).shape == (12, 19)
    assert occlusion(masked, long, 0, 1.0, 1.0).shape == (198, 128)


def test_over_frames_spreads_patches_over_the_frames_they_cover(model):
    grid = np.zeros((12, 12), "float32")
    grid[3, 5] = 1.0
    spread = over_frames(model.backbone, grid, 128)
    assert spread[50:66, 30:46].min() > 0
    assert spread.sum() == pytest.approx(spread[50:66, 30:46].sum())
    np.testing.assert_allclose(over_frames(model.backbone, np.ones((12, 12)), 126)[:, :126], 1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, w: attention_map(m, w, layer=2), "layer must be between 0 and 1"),
        (lambda m, w: attention_map(m, w, head=3), "head must be between 0 and 2"),
        (lambda m, w: attention_rollout(m, w[:300]), "shorter than one frame"),
        (lambda m, w: occlusion(m, w, 0, 0.1, 0.2), "at most width_seconds"),
        (lambda m, w: occlusion(m, w, 0, num_bands=0), "num_bands between 1 and 128"),
        (lambda m, w: class_index(m, "dogg"), "Did you mean 'dog'?"),
        (lambda m, w: class_index(m, "3"), "no class of this name"),
    ],
)
def test_missing_layers_heads_regions_and_classes_are_rejected(model, waveform, call, words):
    with pytest.raises(InferenceError, match=re.escape(words)):
        call(model, waveform)


def test_classes_are_found_by_name_id_and_number(model):
    assert [class_index(model, name) for name in ("cow", "/h", "0")] == [1, 2, 0]


def test_model_of_spectrograms_is_rejected(waveform):
    with pytest.raises(ArgumentError, match="takes spectrograms"):
        valid_spectrogram(tiny_classifier(frontend=None), waveform)


def test_explain_file_gives_scores_and_the_evidence_of_each_class(model, waveform, tmp_path):
    path = str(tmp_path / "a.wav")
    soundfile.write(path, waveform, RATE, subtype="FLOAT")
    explanation = explain_file(model, path, "occlusion", top=2, num_bands=1)
    scores = model.scores(model(waveform[None]))[0].numpy()
    best = np.argsort(-scores)[:2]
    names = model.labels.names
    assert explanation.scores == tuple((names[i], pytest.approx(scores[i])) for i in best)
    assert [found.name for found in explanation.classes] == [names[i] for i in best]
    for found, index in zip(explanation.classes, best, strict=True):
        expected = occlusion(model, waveform, index)
        # Two evaluations of the same logits, whose sums may be in another order.
        np.testing.assert_allclose(found.evidence, expected, rtol=0, atol=5e-6)
    np.testing.assert_array_equal(explanation.sound.waveform, waveform)
    assert explanation.sound.log_mel.shape == (98, 128)


def test_explain_file_takes_part_of_a_file_and_named_classes(model, waveform, tmp_path):
    path = str(tmp_path / "a.wav")
    soundfile.write(path, np.tile(waveform, 3), RATE, subtype="FLOAT")
    explanation = explain_file(
        model, path, "rollout", classes=["/h", "dog"], start_seconds=1.0, duration_seconds=1.0
    )
    assert [found.name for found in explanation.classes] == ["hen", "dog"]
    expected = over_frames(model.backbone, attention_rollout(model, waveform), 98)
    for found in explanation.classes:
        np.testing.assert_allclose(found.evidence, expected, rtol=0, atol=1e-7)
    with pytest.raises(InferenceError, match="method must be one of"):
        explain_file(model, path, "gradients")
