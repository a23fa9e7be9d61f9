"""The page of a run: one whole file, nothing fetched, and what it shows is what was measured."""

import base64
import html
import html.parser
import io
import json
import math
import re

import numpy as np
import pytest
import soundfile

from ast_keras.audio.mel import hertz_to_mel, mel_filterbank
from ast_keras.evaluation.metrics import evaluate_predictions
from ast_keras.labels import LabelSet
from ast_keras.recipe import load_recipe
from ast_keras.reports import html
from ast_keras.reports.run_report import NUM_MISTAKES, RunReport, write_run_report
from ast_keras.reports.worst_mistakes import describe_mistake, encode_flac, worst_mistakes

Image = pytest.importorskip("PIL.Image")

# What is in the data must not become part of the page.
HOSTILE = ('<script>alert("dog")</script>', "rain & 'wind'", "café")
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(html.parser.HTMLParser):
    """Reads a page, checking that every element is closed in order."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(self.texts)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def data(self, kind):
        """Returns the content of the page's data URIs of one kind."""
        found = [a.get("src") or a.get("href") or "" for _, a in self.elements]
        prefix = f"data:{kind};base64,"
        return [base64.b64decode(u.removeprefix(prefix)) for u in found if u.startswith(prefix)]


def assert_self_contained(parsed, links=()):
    for tag, attributes in parsed.elements:
        assert tag not in ("link", "iframe", "object", "embed")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "poster", "action", "xlink:href"):
            if name in attributes and attributes[name] not in links:
                assert attributes[name].startswith("data:"), (tag, attributes[name])
    (policy,) = [a["content"] for a in parsed.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'")


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
    labels = LabelSet(labels)
    mistakes = [
        describe_mistake(
            f"folder/<b>{index}</b>.wav", scores[index], targets[index], labels, badness,
            sounds[index], 16000, np.full((30, 16), -float(index)), 20,
        )
        for index, badness in worst_mistakes(scores, targets, multi_label, NUM_MISTAKES)
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
        frame_step_seconds=0.01,
        mel_range_hz=(20.0, 8000.0),
        workdir="my runs/a",
    )


SCORES = [[0.7, 0.2, 0.1], [0.1, 0.9, 0.0], [0.3, 0.1, 0.6], [0.8, 0.1, 0.1]]
TARGETS = [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.fixture
def written(tmp_path):
    write_run_report(make_report(SCORES, TARGETS), tmp_path / "report.html")
    return Page(tmp_path / "report.html")


def test_report_is_well_formed_and_fetches_nothing(written):
    assert_self_contained(written)
    (language,) = written.all("html")
    assert language == {"lang": "en"}
    assert all(a.get("alt") for a in written.all("img"))
    assert all(a.get("aria-label") for a in written.all("audio"))


def test_report_shows_hostile_names_as_text(written):
    assert len(written.all("script")) == 1
    assert not written.all("b")
    for label in HOSTILE:
        assert label in written.text
    assert "folder/<b>1</b>.wav" in written.text
    assert "three <labels>" in written.text


def test_report_holds_scores_recipe_environment_and_command(written, tmp_path):
    evaluation = evaluate_predictions(np.float32(SCORES), TARGETS, False)
    for value in evaluation.summary().values():
        assert f"{value:.4f}" in written.text
    assert "/device:CPU:0" in written.text
    assert "--recipe 'my runs/a/recipe.json'" in written.text
    start = written.text.index('{\n  "name"')
    saved, _ = json.JSONDecoder().raw_decode(written.text[start:])
    (tmp_path / "recipe.json").write_text(json.dumps(saved))
    assert load_recipe(tmp_path / "recipe.json") == load_recipe("quickstart")


def test_report_holds_the_pictures_and_the_sounds_to_the_bit(written):
    pictures = [Image.open(io.BytesIO(content)) for content in written.data("image/png")]
    assert [p.size for p in pictures] == [(4, 3), (4, 3), *[(30, 16)] * 3]
    assert [p.getpixel((0, 0))[0] for p in pictures[:2]] == [1, 2]
    sounds = written.data("audio/flac")
    assert len(sounds) == 3
    for content, index in zip(sounds, (1, 3, 2), strict=True):  # the worst first
        decoded, rate = soundfile.read(io.BytesIO(content), dtype="float32")
        assert rate == 16000
        np.testing.assert_array_equal(decoded, waveforms(4)[index])


def test_report_without_a_mistake_says_so(tmp_path):
    write_run_report(make_report(TARGETS, TARGETS), tmp_path / "report.html")
    parsed = Page(tmp_path / "report.html")
    assert "every example was recognised" in parsed.text
    assert not parsed.all("audio")


def test_report_of_several_labels_has_bars_and_losses_instead_of_confusions(tmp_path):
    targets = [[1, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
    write_run_report(make_report(SCORES, targets, multi_label=True), tmp_path / "report.html")
    parsed = Page(tmp_path / "report.html")
    assert_self_contained(parsed)
    assert len(parsed.all("img")) == 1
    assert len(parsed.all("audio")) == 4
    losses = [float(v) for v in re.findall(r"\(loss ([\d.]+)\)", parsed.text)]
    assert losses == sorted(losses, reverse=True)
    evaluation = evaluate_predictions(np.float32(SCORES), targets, True)
    bars = [a["style"] for a in parsed.all("span")]
    assert bars == [f"--share: {100 * value:.1f}%" for value in evaluation.average_precision]


def test_report_of_many_long_sounds_stays_small(tmp_path):
    sounds = np.broadcast_to(waveforms(1, 30 * 16000), (40, 30 * 16000))
    scores = np.tile([0.9, 0.1, 0.0], (40, 1))
    targets = np.tile([0, 1, 0], (40, 1))
    path = tmp_path / "report.html"
    write_run_report(make_report(scores, targets, sounds=sounds), path)
    parsed = Page(path)
    sounds = parsed.data("audio/flac")
    assert len(sounds) == NUM_MISTAKES
    assert soundfile.info(io.BytesIO(sounds[0])).duration == 10.0
    # White noise does not compress: twelve sounds of ten seconds, 16 bits, in base64, and a bit.
    assert path.stat().st_size < 12 * 10 * 16000 * 2 * 4 / 3 + 200_000


def test_report_keeps_the_old_page_when_it_fails(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    report = make_report(SCORES, TARGETS)
    object.__setattr__(report.mistakes[0], "log_mel", None)
    with pytest.raises(AttributeError):
        write_run_report(report, path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"


def test_worst_mistakes_are_the_surest_wrong_answers():
    rng = np.random.default_rng(2)
    scores = rng.dirichlet(np.ones(5), 200)
    targets = np.eye(5)[rng.integers(5, size=200)]
    expected = sorted(
        (
            (row, max(scores[row]))
            for row in range(200)
            if targets[row, list(scores[row]).index(max(scores[row]))] == 0
        ),
        key=lambda item: -item[1],
    )
    assert worst_mistakes(scores, targets, False, 12) == expected[:12]
    assert worst_mistakes(scores, targets, False, 500) == expected


def test_worst_mistakes_of_several_labels_have_the_highest_loss():
    rng = np.random.default_rng(3)
    scores, targets = rng.uniform(size=(50, 4)), rng.integers(0, 2, (50, 4))
    losses = [
        -sum(math.log(s if t else 1 - s) for s, t in zip(*row, strict=True)) / 4
        for row in zip(scores, targets, strict=True)
    ]
    found = worst_mistakes(scores, targets, True, 7)
    assert [index for index, _ in found] == sorted(range(50), key=lambda i: -losses[i])[:7]
    # Sums in another order: a few last places of float64.
    np.testing.assert_allclose([loss for _, loss in found], sorted(losses)[:-8:-1], rtol=1e-14)


def test_worst_mistakes_survive_certainty():
    ((index, loss),) = worst_mistakes([[0.0, 1.0]], [[1, 0]], True, 3)
    assert index == 0
    assert math.isfinite(loss)


def test_encode_flac_clips_and_leaves_an_empty_sound_out():
    samples = np.array([1.5, -1.5, 0.25, -1.0], np.float32)
    decoded, _ = soundfile.read(io.BytesIO(encode_flac(samples, 8000)), dtype="int16")
    assert decoded.tolist() == [32767, -32768, 8192, -32768]
    assert encode_flac(samples[:0], 8000) == b""
    assert "no sound" in html.player(b"", "x").lower()


def drawn(log_mel, num_valid_frames, **ranges):
    text = html.spectrogram(
        log_mel, num_valid_frames, name="x", frame_step_seconds=0.01,
        **{"f_min_hz": 20.0, "f_max_hz": 8000.0, **ranges},
    )  # fmt: skip
    content = re.search(r"base64,([^\"]+)", text)[1]
    return text, np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_spectrogram_has_a_pixel_for_each_value_low_frequencies_below():
    log_mel = np.zeros((40, 16))
    log_mel[30, 2] = 9.0
    _, pixels = drawn(log_mel, 40)
    assert pixels.shape == (16, 40)
    assert np.argwhere(pixels == pixels.max()).tolist() == [[13, 30]]


def test_spectrogram_ticks_stand_where_the_filters_peak():
    filters = mel_filterbank(num_mel_bins=64, fft_size=4096)
    text, _ = drawn(np.random.default_rng(1).normal(size=(100, 64)), 100)
    (box,) = re.findall(r'<image x="\d+" y="(\d+)" width="\d+" height="(\d+)"', text)
    top, height = map(float, box)
    ticks = re.findall(r'y="([\d.]+)" text-anchor="end">(\d+)<', text)
    assert [hertz for _, hertz in ticks] == ["100", "300", "1000", "2000", "4000", "8000"]
    for y, hertz in ticks[2:5]:
        place = 1 - (float(y) - 4 - top) / height
        peak = filters[round(int(hertz) * 4096 / 16000)].argmax()
        # The tick lies on the bin whose filter is the strongest there, or on its edge.
        assert abs(place * 64 - (peak + 0.5)) <= 0.55
    assert hertz_to_mel(8000) > hertz_to_mel(4000)


def test_spectrogram_marks_the_padding():
    log_mel = np.zeros((50, 8))
    log_mel[:20] = np.random.default_rng(1).normal(size=(20, 8))
    assert "stroke-dasharray" in drawn(log_mel, 20)[0]
    assert "stroke-dasharray" not in drawn(log_mel, 50)[0]
    # All padding, and silence: nothing to scale colours by.
    drawn(np.zeros((50, 8)), 0)


def test_table_sorts_by_numbers_and_shows_what_is_missing():
    text = html.table(["class", "AP"], [("a", 0.25), ("b", math.nan), ("c", None)], True, ["AP"])
    assert 'data-value="0.25"' in text
    assert text.count("<td>-</td>") == 2
    assert 'class="sortable"' in text
