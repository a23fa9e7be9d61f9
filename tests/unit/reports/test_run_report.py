"""The page of a run: self-contained, escaped, and showing what was measured."""

import dataclasses
import io
import json
import re

import numpy as np
import pytest
import soundfile

from ast_keras.evaluation.metrics import evaluate_predictions
from ast_keras.labels import LabelSet
from ast_keras.recipe import load_recipe
from ast_keras.reports.run_report import RunReport, write_run_report
from ast_keras.reports.sound import Sound
from ast_keras.reports.worst_mistakes import describe_mistake, worst_mistakes
from tests.helpers.html import Page, assert_self_contained

Image = pytest.importorskip("PIL.Image")

# Text from data that must not become part of the page.
HOSTILE = ('<script>alert("dog")</script>', "rain & 'wind'", "café")


def png(color=0):
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (color, 0, 0)).save(file, "PNG")
    return file.getvalue()


def waveforms(count, samples=4000):
    rng = np.random.default_rng(5)
    return rng.integers(-30000, 30000, (count, samples)).astype(np.float32) / 32768


def make_report(scores, targets, multi_label=False, labels=HOSTILE, sounds=None):
    scores, targets = np.asarray(scores, np.float32), np.asarray(targets, np.float32)
    sounds = waveforms(len(scores)) if sounds is None else sounds
    labels, log_mel = LabelSet(labels), np.random.default_rng(1).normal(size=(30, 16))
    mistakes = [
        describe_mistake(
            Sound(
                f"folder/<b>{index}</b>.wav", sounds[index], 16000, log_mel, 0.01, (20, 8000), 20
            ),
            scores[index], targets[index], labels, severity,
        )
        for index, severity in worst_mistakes(scores, targets, multi_label, 12)
    ]  # fmt: skip
    evaluation = evaluate_predictions(scores, targets, multi_label)
    row = {"epoch": 1, "train_loss": 2.0, "learning_rate": 1e-5, **evaluation.summary()}
    return RunReport(
        recipe=load_recipe("quickstart"),
        environment={"python": "3.11", "devices": ["/device:CPU:0"]},
        data="three <labels>",
        split="test",
        chosen="epoch 1 (the best accuracy on validation)",
        evaluation=evaluation,
        labels=labels,
        rows=[("best epoch", row), ("test, best epoch", {**evaluation.summary(), "epoch": 1})],
        history=[row],
        mistakes=mistakes,
        curves=png(1),
        confusion=None if multi_label else png(2),
        workdir="my runs/a",
    )


SCORES = [[0.7, 0.2, 0.1], [0.1, 0.9, 0.0], [0.3, 0.1, 0.6], [0.8, 0.1, 0.1]]
TARGETS = [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_run_report(make_report(SCORES, TARGETS), path)
    return Page(path)


def test_report_is_self_contained_and_accessible(page):
    assert_self_contained(page)
    assert page.all("html") == [{"lang": "en"}]
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("aria-label") for a in page.all("audio"))


def test_report_shows_hostile_names_as_text(page):
    assert len(page.all("script")) == 1
    assert not page.all("b")
    for text in (*HOSTILE, "folder/<b>1</b>.wav", "three <labels>"):
        assert text in page.text


def test_report_shows_scores_recipe_environment_and_commands(page, tmp_path):
    evaluation = evaluate_predictions(np.float32(SCORES), TARGETS, False)
    for value in evaluation.summary().values():
        assert f"{value:.4f}" in page.text
    assert "/device:CPU:0" in page.text
    assert "--recipe 'my runs/a/recipe.json'" in page.text
    assert "1e-05" in page.text  # the learning rate
    saved, _ = json.JSONDecoder().raw_decode(page.text[page.text.index('{ "name"') :])
    (tmp_path / "recipe.json").write_text(json.dumps(saved))
    assert load_recipe(tmp_path / "recipe.json") == load_recipe("quickstart")


def test_report_holds_pictures_and_the_sounds_to_the_bit(page):
    pictures = [Image.open(io.BytesIO(content)) for content in page.data("image/png")]
    assert len(pictures) == 2 + 3  # curves, confusion matrix and a spectrogram for each mistake
    assert [p.getpixel((0, 0))[0] for p in pictures[:2]] == [1, 2]
    sounds = page.data("audio/flac")
    assert len(sounds) == 3
    for content, index in zip(sounds, (1, 3, 2), strict=True):  # worst first
        decoded, rate = soundfile.read(io.BytesIO(content), dtype="float32")
        assert rate == 16000
        np.testing.assert_array_equal(decoded, waveforms(4)[index])


def test_report_of_several_labels_has_losses_and_bars_but_no_confusions(tmp_path):
    targets = [[1, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
    sounds = [*waveforms(3), np.zeros(0, np.float32)]
    report = make_report(SCORES, targets, multi_label=True, sounds=sounds)
    write_run_report(report, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert_self_contained(page)
    assert "Confusions" not in page.text
    assert len(page.all("audio")) == 3
    assert "No sound: the file is empty." in page.text
    losses = [float(v) for v in re.findall(r"\(loss ([\d.]+)\)", page.text)]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == 4
    evaluation = evaluate_predictions(np.float32(SCORES), targets, True)
    bars = [a["style"] for a in page.all("span")]
    values = np.stack([evaluation.f1, evaluation.average_precision], axis=1).ravel()
    assert bars == [f"--fraction: {100 * value:.1f}%" for value in values]


def test_report_without_a_mistake_says_so(tmp_path):
    write_run_report(make_report(TARGETS, TARGETS), tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "every example was classified correctly" in page.text
    assert not page.all("audio")


def test_report_of_long_sounds_stays_small(tmp_path):
    sounds = waveforms(2, 30 * 16000)
    report = make_report([[0.9, 0.1, 0], [0.8, 0.2, 0]], [[0, 1, 0]] * 2, sounds=sounds)
    noise = np.random.default_rng(1).normal(size=(1024, 128))  # does not compress, like the sounds
    mistakes = [
        dataclasses.replace(mistake, sound=dataclasses.replace(mistake.sound, log_mel=noise))
        for mistake in report.mistakes
    ]
    path = tmp_path / "report.html"
    write_run_report(dataclasses.replace(report, mistakes=mistakes), path)
    sounds = Page(path).data("audio/flac")
    assert [soundfile.info(io.BytesIO(sound)).duration for sound in sounds] == [10.0, 10.0]
    # In base64: two sounds of ten seconds with 16 bits, pictures of up to 400 kB, and the page.
    assert path.stat().st_size < 2 * (10 * 16000 * 2 + 400_000) * 4 / 3 + 50_000


def test_report_keeps_the_old_page_when_it_fails(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    report = make_report(SCORES, TARGETS)
    broken = [dataclasses.replace(m, sound=None) for m in report.mistakes]
    with pytest.raises(AttributeError):
        write_run_report(dataclasses.replace(report, mistakes=broken), path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"
