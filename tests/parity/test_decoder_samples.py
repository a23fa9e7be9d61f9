"""`load_audio` on 48 real files of many sample rates and codecs, against libsndfile and ffmpeg.

The files are in the subfolder `decoder_samples` of the folder that `AST_KERAS_DATA` names.
"""

import csv
import math
import pathlib
import warnings

import numpy as np
import pytest
import soundfile

from ast_keras.audio import audio_info, load_audio
from ast_keras.errors import AudioDecodeError, AudioEmptyError, AudioWarning
from tests.helpers.paths import DATA

FOLDER = pathlib.Path(DATA or "") / "decoder_samples"
MANIFEST = FOLDER / "manifest.csv"
pytestmark = pytest.mark.skipif(
    not MANIFEST.is_file(), reason="AST_KERAS_DATA names no folder that holds decoder_samples"
)
ROWS = list(csv.DictReader(MANIFEST.open(encoding="utf-8"))) if MANIFEST.is_file() else []
VALID = [row for row in ROWS if int(row["frames"] or 0)]
COMPARED = [row for row in VALID if row["ffmpeg_mono_rms"]]


def each(rows):
    return pytest.mark.parametrize("row", rows, ids=[row["file"] for row in rows])


def load(row, **options):
    """Loads a file. Any warning except that of a missing header fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if row["container"] == "RAW":
            warnings.filterwarnings("ignore", ".*has no header", AudioWarning)
        return load_audio(FOLDER / row["file"], **options)


def test_manifest_is_complete():
    assert len(ROWS) == 48
    assert {row["file"] for row in ROWS} == {path.name for path in FOLDER.iterdir()} - {
        MANIFEST.name
    }


@each(VALID)
@pytest.mark.filterwarnings("ignore:.*has no header")
def test_audio_info_agrees_with_the_manifest(row):
    info = audio_info(FOLDER / row["file"])
    assert (info.sample_rate, info.channels) == (int(row["rate"]), int(row["channels"]))
    assert (info.container, info.codec) == (row["container"], row["codec"])
    assert info.frames == int(row["frames"])


@each(VALID)
def test_load_audio_returns_every_frame(row):
    rate = int(row["rate"])
    # libsndfile includes the padding of an MP3 in its count but does not decode it.
    frames = int(row["ffmpeg_frames" if row["container"] == "MP3" else "frames"])
    assert len(load(row, sample_rate=rate)) == frames
    samples = load(row)
    assert samples.dtype == np.float32
    assert len(samples) == math.floor(frames * 16_000 / rate + 0.5)
    # One clipped MP3 has a peak of 1.20, and of 1.44 after resampling.
    assert np.abs(samples).max() < 1.5


@each(VALID)
def test_load_audio_returns_the_mean_of_the_channels(row):
    with soundfile.SoundFile(FOLDER / row["file"]) as file:
        if file.seekable():
            file.seek(0)
        frames = file.read(file.frames, dtype="float32", always_2d=True)
    samples = load(row, sample_rate=int(row["rate"]))
    np.testing.assert_array_equal(samples, frames.mean(axis=1))
    for channel in range(frames.shape[1]):
        picked = load(row, sample_rate=int(row["rate"]), channel=channel)
        np.testing.assert_array_equal(picked, frames[:, channel])


@each(COMPARED)
def test_load_audio_has_the_energy_that_ffmpeg_measures(row):
    samples = load(row, sample_rate=int(row["rate"])).astype(np.float64)
    # ffmpeg mixes two channels to their sum divided by sqrt(2), load_audio to their mean.
    energy = np.sqrt(np.sum(np.square(samples)) * int(row["channels"]))
    # Vorbis decoders differ by up to 399 frames of near silence at the end: compare energies.
    rms = energy / np.sqrt(int(row["ffmpeg_frames"]))
    # The manifest has six decimals, so its rounding is up to 5e-7; observed 4.9e-7.
    tolerance = 6e-7
    if row["codec"] == "VORBIS" and row["frames"] != row["ffmpeg_frames"]:
        # The additional frames of one decoder are not entirely silent: up to 1.0e-5.
        tolerance = 3.1e-5
    # The decoders of these codecs differ by 1.1e-4 and 3.6e-5.
    tolerance = {"OPUS": 3.4e-4, "MS_ADPCM": 1.1e-4}.get(row["codec"], tolerance)
    assert abs(rms - float(row["ffmpeg_mono_rms"])) < tolerance


@each(VALID)
def test_load_audio_spans_equal_the_whole_file(row):
    rate = int(row["rate"])
    whole = load(row, sample_rate=rate)
    half = len(whole) // 2 / rate
    parts = [
        load(row, sample_rate=rate, duration_seconds=half),
        load(row, sample_rate=rate, start_seconds=half),
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@each([row for row in VALID if row["container"] != "RAW"])
def test_load_audio_returns_equal_samples_for_bytes(row):
    np.testing.assert_array_equal(load_audio((FOLDER / row["file"]).read_bytes()), load(row))


@each([row for row in VALID if row["container"] == "RAW"])
def test_load_audio_decodes_headerless_files_by_their_suffix(row):
    with pytest.warns(AudioWarning, match=f"no header: read as {row['codec']} at 8000 Hz"):
        load_audio(FOLDER / row["file"])
    with pytest.raises(AudioDecodeError, match="cannot be decoded"):
        load_audio((FOLDER / row["file"]).read_bytes())


def test_load_audio_accepts_silence():
    (row,) = [row for row in COMPARED if float(row["ffmpeg_mono_rms"]) == 0]
    assert not load(row).any()


def test_load_audio_rejects_empty_and_malformed_files():
    with pytest.raises(AudioEmptyError, match=r"no samples.*empty\.wav"):
        load_audio(FOLDER / "empty.wav")
    with pytest.raises(AudioDecodeError, match=r"Malformed.*malformed-wav-named-ogg\.ogg"):
        load_audio(FOLDER / "malformed-wav-named-ogg.ogg")
