"""Explanations: attention as the authors' code has it, and evidence where the sound is."""

import io
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import soundfile

import ast_keras
from ast_keras import explain
from ast_keras.errors import InferenceError
from ast_keras.inference.explanation import (
    attention_map,
    attention_rollout,
    class_index,
    gradient_times_input,
    occlusion,
    over_frames,
    special_attention,
)
from ast_keras.labels import LabelSet
from ast_keras.reports.explanation_report import Sound, evidence_picture, smoothed

ROOT = pathlib.Path(explain.__file__).parents[1]
GOLDENS = ROOT / "tests" / "goldens"
RATE = 16000
CHIRP_SECONDS = 0.15


def noisy_clips(count, seed):
    """Returns clips of 1.2 s of noise, which of them hold a chirp, and the time of its middle."""
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
    """A small model that tells clips with a chirp from noise; trained in some 10 s."""
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
    clips, present, _ = noisy_clips(800, seed=0)
    parts = [model.spectrogram(clips[i : i + 100]) for i in range(0, 800, 100)]
    on_spectrograms = ast_keras.ASTClassifier(model.backbone, 1)
    schedule = ast_keras.WarmupCosineSchedule(1e-3, warmup_steps=80, total_steps=200)
    on_spectrograms.compile(
        keras.optimizers.Adam(schedule), keras.losses.BinaryCrossentropy(from_logits=True)
    )
    on_spectrograms.fit(np.concatenate(parts), present, batch_size=20, epochs=5, verbose=0)
    model.head.set_weights(on_spectrograms.head.get_weights())
    model.head_norm.set_weights(on_spectrograms.head_norm.get_weights())
    return model


@pytest.fixture(scope="module")
def planted():
    """Ten fresh clips with a chirp, and the times of its middle."""
    clips, present, middles = noisy_clips(40, seed=7)
    return clips[present > 0][:10], middles[present > 0][:10]


def peak_seconds(evidence):
    """Returns where evidence, summed over frequency and 150 ms, is highest."""
    over_time = np.convolve(evidence.sum(axis=1), np.ones(15) / 15, "same")
    return 0.010 * int(over_time.argmax()) + 0.0125


# Seen: 0.1 s at most with the gradient, 0.03 s with occlusion.
@pytest.mark.parametrize("method", [gradient_times_input, occlusion])
def test_planted_sound_is_found_within_160_ms(trained, planted, method):
    clips, middles = planted
    scores = trained.scores(trained(clips)).numpy()[:, 0]
    assert (scores > 0.5).all()
    found = [peak_seconds(method(trained, clip, 0)) for clip in clips]
    assert (np.abs(np.array(found) - middles) < 0.160).sum() >= 9, (found, middles)


def test_attention_lies_on_the_planted_sound(trained, planted):
    clips, middles = planted
    for method in (attention_rollout, attention_map):
        maps = [over_frames(trained.backbone, method(trained, clip), 118) for clip in clips]
        found = np.array([peak_seconds(evidence) for evidence in maps])
        assert (np.abs(found - middles) < 0.160).sum() >= 9, (found, middles)


def test_covering_the_sound_takes_the_class_away(trained, planted):
    clips, middles = planted
    evidence = occlusion(trained, clips[0], 0, num_bands=8)
    # What sounds lies in 700 to 2500 Hz, bins 30 to 80 of 128.
    frame = round(middles[0] * 100)
    near = evidence[frame - 10 : frame + 10, 25:85].sum()
    assert near > 0.8 * np.abs(evidence).sum()


# --- Numbers ---


def test_attention_equals_the_authors():
    stored = np.load(GOLDENS / "original_small.npz")
    file = GOLDENS / "original_small.safetensors"
    model = ast_keras.from_preset(file, num_heads=3, num_frames=256, frontend=None)
    found = special_attention(model.backbone, stored["x"][:1])
    # float32 products in another order.
    np.testing.assert_allclose(found, stored["attention"], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(2)
    labels = LabelSet(("dog", "cow", "hen"), ("/d", "/c", "/h"))
    return ast_keras.from_preset("ast_test", labels=labels, num_frames=128)


@pytest.fixture(scope="module")
def waveform():
    return np.random.default_rng(0).uniform(-0.1, 0.1, 16000).astype("float32")


def test_rollout_equals_its_definition(model, waveform):
    weights = model.backbone.attention_weights(model.spectrogram(waveform[None]))
    flow = np.eye(146)
    for block in weights:
        mixed = 0.5 * block[0].numpy().astype("float64").mean(axis=0) + 0.5 * np.eye(146)
        flow = (mixed / mixed.sum(axis=1, keepdims=True)) @ flow
    expected = flow[:2].mean(axis=0)[2:].reshape(12, 12)[:, :10]  # 98 frames are sound
    np.testing.assert_allclose(attention_rollout(model, waveform), expected, rtol=0, atol=1e-7)


def test_heads_and_layers_are_those_of_the_model(model, waveform):
    weights = model.backbone.attention_weights(model.spectrogram(waveform[None]))
    row = weights[0][0, 1, :2].numpy().mean(axis=0)[2:].reshape(12, 12)[:, :10]
    found = attention_map(model, waveform, layer=0, head=1)
    np.testing.assert_allclose(found, row, rtol=0, atol=1e-7)
    last = weights[-1][0, :, :2].numpy().mean(axis=(0, 1))[2:].reshape(12, 12)[:, :10]
    np.testing.assert_allclose(attention_map(model, waveform), last, rtol=0, atol=1e-7)


def test_evidence_of_gradients_adds_up_to_what_the_sound_adds(model, waveform):
    evidence = gradient_times_input(model, waveform, 1, steps=32)
    spectrogram = model.spectrogram(waveform[None]).numpy()
    mean = spectrogram.copy()
    mean[0, :98] = mean[0, :98].mean(axis=0)
    sound, baseline = (
        float(model.classify(model.pool(model.backbone(x)))[0, 1]) for x in (spectrogram, mean)
    )
    # A sum over 32 places instead of an integral, and float32 logits.
    assert evidence.sum() == pytest.approx(sound - baseline, rel=0.01, abs=1e-6)


def test_gradient_at_the_sound_is_the_slope_along_the_difference(model, waveform):
    evidence = gradient_times_input(model, waveform, 1, steps=1)
    assert evidence.shape == (98, 128)
    spectrogram = model.spectrogram(waveform[None]).numpy()
    direction = np.zeros_like(spectrogram)
    direction[0, :98] = spectrogram[0, :98] - spectrogram[0, :98].mean(axis=0)

    def logit(share):
        moved = (spectrogram + share * direction).astype("float32")
        return float(model.classify(model.pool(model.backbone(moved)))[0, 1])

    slope = (logit(1e-2) - logit(-1e-2)) / 2e-2
    # A difference quotient of float32 logits: 1e-7 / 2e-2, and curvature.
    assert evidence.sum() == pytest.approx(slope, abs=2e-5 + 0.01 * abs(slope))


def test_occlusion_equals_a_computation_region_by_region(model, waveform):
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
    # Differences of float32 logits, in batches of another size.
    np.testing.assert_allclose(found[:, [0, 64]], expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found[:, :64], np.repeat(found[:, :1], 64, axis=1))


def test_any_length_is_explained_by_a_masked_model(waveform):
    masked = ast_keras.from_preset("ast_test", num_classes=2, num_frames=98, padding="masked")
    long = np.tile(waveform, 3)
    assert gradient_times_input(masked, long, 0).shape == (298, 128)
    assert attention_rollout(masked, long).shape == (12, 29)
    assert occlusion(masked, long, 0, 1.0, 0.5).shape == (298, 128)


def test_patches_are_spread_over_what_they_cover(model):
    grid = np.zeros((12, 12), "float32")
    grid[3, 5] = 1.0
    spread = over_frames(model.backbone, grid, 128)
    assert spread[50:66, 30:46].min() > 0
    assert spread.sum() == pytest.approx(spread[50:66, 30:46].sum())
    np.testing.assert_allclose(over_frames(model.backbone, np.ones((12, 12)), 126)[:, :126], 1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, w: attention_map(m, w, layer=2), "layer must lie between 0 and 1"),
        (lambda m, w: attention_map(m, w, head=3), "head must lie between 0 and 2"),
        (lambda m, w: attention_rollout(m, w[:300]), "less than a frame"),
        (lambda m, w: occlusion(m, w, 0, 0.1, 0.2), "at most the width"),
        (lambda m, w: occlusion(m, w, 0, num_bands=0), "bands from 1 to 128"),
        (lambda m, w: class_index(m, "dogg"), "Did you mean 'dog'?"),
        (lambda m, w: class_index(m, "3"), "no class of this name"),
    ],
)
def test_what_does_not_exist_is_an_error(model, waveform, call, words):
    with pytest.raises(InferenceError, match=re.escape(words)):
        call(model, waveform)


def test_classes_are_found_by_name_id_and_number(model):
    assert [class_index(model, name) for name in ("cow", "/h", "0")] == [1, 2, 0]


# --- Pictures and the command ---


def test_picture_shows_the_evidence_where_it_is():
    from PIL import Image

    log_mel = np.random.default_rng(0).normal(-8, 1, (198, 128)).astype("float32")
    sound = Sound("a.wav", np.zeros(2 * RATE, "float32"), RATE, log_mel, 0.01, (20.0, 8000.0))
    evidence = np.zeros_like(log_mel)
    evidence[140:160] = 1.0
    png = evidence_picture(sound, evidence, "dog, 0.9")
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    height, width = pixels.shape[:2]
    below = pixels[round(0.65 * height) : round(0.88 * height)]
    colour = np.abs(below - below.mean(axis=2, keepdims=True)).max(axis=2).mean(axis=0)
    seconds = (np.arange(width) / width - 0.08) / 0.90 * 2.0
    assert colour[(seconds > 1.42) & (seconds < 1.58)].min() > 30
    assert colour[(seconds > 0.1) & (seconds < 1.3)].max() < 5  # grey
    with pytest.raises(ValueError, match="of one shape"):
        evidence_picture(sound, evidence[:9], "dog")


def test_smoothing_keeps_the_sum():
    values = np.zeros((30, 30), "float32")
    values[12, 15] = 1.0
    assert smoothed(values, 5).sum() == pytest.approx(1.0)


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    ast_keras.save_to_preset(trained, folder)
    return folder


def command(saved, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "ast_keras.explain", "--model", str(saved), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.slow
def test_command_writes_pictures_and_a_page_of_one_file(saved, planted, tmp_path):
    soundfile.write(tmp_path / "my sound.wav", planted[0][0], RATE)
    output = tmp_path / "out"
    done = command(saved, tmp_path / "my sound.wav", "--method", "occlusion", "--output", output)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in output.iterdir()) == [
        *("my sound-chirp.png", "my sound.html")
    ]
    html = (output / "my sound.html").read_text()
    assert html.count("data:image/png;base64,") == 1
    assert html.count("data:audio/flac;base64,") == 1
    assert 'class="cursor"' in html
    assert not re.search(r"(src|href)=\"(?!data:)", html)
    assert done.stdout.splitlines()[-1] == str(output / "my sound.html")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gone.wav",), "No file at this path"),
        ((), "Say which sound and with what"),
    ],
)
def test_command_says_what_is_wrong_in_one_line(saved, tmp_path, arguments, words):
    done = command(saved, *arguments, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert words in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()
