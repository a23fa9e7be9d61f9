"""Files, bytes and arrays to samples: the same ones every way, and a clear word where it fails."""

import concurrent.futures
import io
import os
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
import soundfile

from ast_keras.audio import audio_from_array, audio_info, load_audio
from ast_keras.audio.loading import AudioInfo
from ast_keras.errors import (
    AudioChannelError,
    AudioDecodeError,
    AudioEmptyError,
    AudioError,
    AudioNotFoundError,
    AudioSampleError,
    AudioWarning,
)

RATE = 16_000
LOSSLESS = [
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "PCM_32"),
    ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"),
    ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AIFF", "PCM_24"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
    ("FLAC", "PCM_S8"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
]
LOSSY = [
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
    ("AU", "ULAW"),
    ("WAV", "ALAW"),
    ("WAV", "MS_ADPCM"),
    ("WAV", "IMA_ADPCM"),
    ("WAV", "GSM610"),
]


def sine(rate=RATE, seconds=1.0, hz=440.0, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)


def noise(shape, seed=0):
    """Whole multiples of 1/32768, so that 16 bits hold them exactly."""
    rng = np.random.default_rng(seed)
    return rng.integers(-30_000, 30_000, shape).astype(np.float64) / 32_768


def encode(samples, rate=RATE, container="WAV", codec="PCM_16", **options):
    if not soundfile.check_format(container, codec):
        pytest.skip(reason=f"this libsndfile does not write {container} {codec}")
    file = io.BytesIO()
    channels = 1 if np.ndim(samples) == 1 else np.shape(samples)[1]
    with soundfile.SoundFile(
        file, "w", rate, channels, codec, format=container, **options
    ) as sound:
        sound.write(samples)
    return file.getvalue()


def decibels(error, signal):
    return 10 * np.log10(np.mean(np.square(error)) / np.mean(np.square(signal)))


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# What comes out


@pytest.mark.parametrize(("container", "codec"), LOSSLESS)
def test_load_audio_returns_what_a_lossless_file_holds(container, codec, no_warnings):
    wave = noise(2_000)
    samples = load_audio(encode(wave, container=container, codec=codec))
    assert samples.dtype == np.float32
    assert samples.shape == (2_000,)
    # Eight bits hold steps of 1/128, and WAV's writer rounds down; more bits hold it exactly.
    np.testing.assert_allclose(samples, wave, rtol=0, atol=1 / 128 if "8" in codec else 0)


@pytest.mark.parametrize(("container", "codec"), LOSSY)
def test_load_audio_returns_about_what_a_lossy_file_holds(container, codec, no_warnings):
    wave = sine(seconds=2)
    samples = load_audio(encode(wave, container=container, codec=codec))
    # Block codecs pad the end by up to a block, 1,017 samples for IMA ADPCM.
    assert 0 <= len(samples) - len(wave) < 1_017
    middle = slice(1_000, 30_000)
    # The worst of them, GSM, errs by -29.6 dB on a pure tone; ten decibels, a factor of three.
    assert decibels(samples[middle] - wave[middle], wave[middle]) < -19


def test_load_audio_gives_the_same_samples_from_path_and_bytes(tmp_path, no_warnings):
    data = encode(noise((3_000, 2)), rate=44_100)
    path = tmp_path / "clip.of.any.name"
    path.write_bytes(data)
    expected = load_audio(data)
    for source in (path, str(path), bytearray(data), memoryview(data), np.bytes_(data)):
        np.testing.assert_array_equal(load_audio(source), expected)


@pytest.mark.parametrize("container", ["WAV", "AIFF", "AU", "FLAC"])
@pytest.mark.parametrize("shape", [(3_000, 1), (3_000, 2)])
def test_load_audio_gives_the_bits_of_libsndfile_and_of_the_array(container, shape):
    integers = (noise(shape) * 32_768).astype(np.int16)
    data = encode(integers, container=container)
    samples = load_audio(data)
    reference, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    np.testing.assert_array_equal(samples, reference.mean(axis=1))
    np.testing.assert_array_equal(samples, audio_from_array(integers, RATE, channel_axis=1))


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
@pytest.mark.parametrize("channels", [1, 2])
def test_load_audio_gives_the_bits_of_tensorflow_io(container, channels):
    tfio = pytest.importorskip("tensorflow_io", reason="tensorflow-io is not installed")
    data = encode(noise((3_000, channels)), container=container)
    decode = tfio.audio.decode_wav if container == "WAV" else tfio.audio.decode_flac
    try:
        decoded = decode(data, dtype="int16").numpy()
    except NotImplementedError:
        pytest.skip(reason="tensorflow-io's native library does not load under this TensorFlow")
    reference = (decoded / np.float32(32_768)).mean(axis=1, dtype=np.float32)
    np.testing.assert_array_equal(load_audio(data), reference)


def test_load_audio_is_the_same_from_many_threads():
    clips = [
        encode(noise((4_000, 2), seed), rate=44_100, container=container)
        for seed, container in enumerate(["WAV", "FLAC", "AIFF", "AU"] * 8)
    ]
    expected = [load_audio(clip) for clip in clips]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(load_audio, clips), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_audio_does_not_load_tensorflow():
    code = "import sys, ast_keras.audio; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Channels


def test_load_audio_mixes_channels_to_their_mean(no_warnings):
    wave = noise((1_000, 6))
    # Roundings of float32, in a sum of six and its division: 2e-8 measured.
    np.testing.assert_allclose(load_audio(encode(wave)), wave.mean(axis=1), rtol=0, atol=6e-8)


@pytest.mark.parametrize("channel", [0, 1, np.int64(2)])
def test_load_audio_picks_one_channel(channel, no_warnings):
    wave = noise((1_000, 3))
    np.testing.assert_array_equal(load_audio(encode(wave), channel=channel), wave[:, channel])


@pytest.mark.parametrize("channel", [2, -1, "left", None, 0.0])
def test_load_audio_rejects_a_channel_that_is_not_there(channel):
    with pytest.raises(AudioChannelError, match=r'"mix" or one of 0 to 1.*<bytes>'):
        load_audio(encode(noise((1_000, 2))), channel=channel)


# Rates


@pytest.mark.parametrize("rate", [5_000, 8_000, 11_127, 22_050, 44_100, 48_000, 128_000])
def test_load_audio_resamples_a_tone_to_the_ideal_tone(rate, no_warnings):
    data = encode(sine(rate, hz=1_000), rate, codec="FLOAT")
    samples, ideal = load_audio(data), sine(hz=1_000)
    assert len(samples) == RATE
    inner = slice(1_000, -1_000)
    # Measured -131.4 dB (11,127 Hz) to -137.8 dB; ten decibels, a factor of three, to spare.
    assert decibels(samples[inner] - ideal[inner], ideal[inner]) < -121


@pytest.mark.parametrize("hz", [9_000, 12_000, 20_000])
def test_load_audio_removes_what_the_new_rate_cannot_hold(hz):
    samples = load_audio(encode(sine(44_100, hz=hz), 44_100, codec="FLOAT"))
    # Measured -141.8 dB at most; ten decibels, a factor of three, to spare.
    assert decibels(samples[1_000:-1_000], sine(hz=1_000)) < -131


@pytest.mark.parametrize("rate", [8_000, 11_127, 44_100, 48_000, 999_983])
@pytest.mark.parametrize("length", [500, 1_001, 4_410, 65_537])
@pytest.mark.parametrize("sample_rate", [16_000, 44_100])
@pytest.mark.filterwarnings("ignore:.*shorter than 25 ms")
def test_audio_from_array_rounds_the_length_half_up(rate, length, sample_rate):
    expected = int(length * sample_rate / rate + 0.5)
    assert len(audio_from_array(np.zeros(length), rate, sample_rate)) == expected


@pytest.mark.parametrize("rate", [0, -16_000, 16, 44, 44_100.0, "16000", True, None, 10**7])
def test_load_audio_rejects_a_rate_that_is_none(rate):
    with pytest.raises(AudioError, match=r"sample_rate must be a whole number of Hz.*<bytes>"):
        load_audio(encode(noise(1_000)), rate)
    with pytest.raises(AudioError, match=r"source_rate must be a whole number of Hz.*<array>"):
        audio_from_array(noise(1_000), rate)


@pytest.mark.parametrize("rate", [1, 300, 4_000_000_000])
def test_load_audio_rejects_a_rate_in_the_header_that_is_none(rate):
    data = bytearray(encode(noise(1_000)))
    struct.pack_into("<I", data, 24, rate)
    with pytest.raises(AudioError, match=r"rate in the header|cannot be decoded"):
        load_audio(data)


# Spans


@pytest.mark.parametrize(("container", "codec"), LOSSLESS + LOSSY)
def test_load_audio_reads_the_same_samples_in_spans(container, codec, tmp_path, no_warnings):
    wave = sine(seconds=3) + 0.1 * noise(3 * RATE)
    path = tmp_path / "clip"
    path.write_bytes(encode(wave, container=container, codec=codec))
    whole = load_audio(path)
    for start, duration in [(0, 0.1), (0.3, 0.5), (1.00003, 0.25), (2.9, 0.05), (2.9, None)]:
        part = load_audio(path, start_seconds=start, duration_seconds=duration)
        first = round(start * RATE)
        last = None if duration is None else round((start + duration) * RATE)
        np.testing.assert_array_equal(part, whole[first:last])


def test_load_audio_spans_tile_a_file_without_gap_or_overlap():
    wave = noise(11_127)
    data = encode(wave, 11_127)
    spans = [
        load_audio(data, 11_127, start_seconds=i / 7, duration_seconds=1 / 7) for i in range(7)
    ]
    np.testing.assert_array_equal(np.concatenate(spans), wave)


def test_load_audio_gives_what_is_there_of_a_span_past_the_end(no_warnings):
    wave = noise(RATE)
    part = load_audio(encode(wave), start_seconds=0.75, duration_seconds=9)
    np.testing.assert_array_equal(part, wave[12_000:])


def test_load_audio_rejects_a_span_outside_the_sound():
    data = encode(noise(RATE))
    with pytest.raises(AudioEmptyError, match=r"start_seconds.*<bytes>, of 1 s"):
        load_audio(data, start_seconds=1)
    for start in (-0.1, np.nan, np.inf):
        with pytest.raises(AudioError, match=r"start_seconds must be 0 or more.*<bytes>"):
            load_audio(data, start_seconds=start)
    for duration in (0, -1, np.nan, np.inf):
        with pytest.raises(AudioError, match=r"duration_seconds must be more than 0.*<bytes>"):
            load_audio(data, duration_seconds=duration)


# Arrays


@pytest.mark.parametrize("shape", [(1_000,), (1_000, 1), (1, 1_000), (1_000, 2), (2, 1_000)])
def test_audio_from_array_takes_the_short_axis_for_channels(shape, no_warnings):
    wave = noise(shape)
    expected = wave if wave.ndim == 1 else wave.mean(axis=int(np.argmin(shape)))
    np.testing.assert_array_equal(audio_from_array(wave, RATE), expected)


@pytest.mark.parametrize("shape", [(2, 2), (1, 1), (3, 1_000), (1_000, 8), (), (1, 2, 500)])
def test_audio_from_array_rejects_an_unclear_shape(shape):
    with pytest.raises(AudioChannelError, match=r"pass channel_axis=0 or 1.*<array>"):
        audio_from_array(np.zeros(shape), RATE)


@pytest.mark.filterwarnings("ignore:.*shorter than 25 ms")
@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 2), 0), ((2, 2), 1), ((3, 900), 0), ((900, 8), -1)]
)
def test_audio_from_array_takes_the_axis_it_is_told(shape, axis):
    wave = noise(shape)
    samples = audio_from_array(wave, RATE, channel_axis=axis, channel=1)
    np.testing.assert_array_equal(samples, np.take(wave, 1, axis))


@pytest.mark.parametrize("axis", [2, -3, 0.5])
def test_audio_from_array_rejects_an_axis_that_is_not_there(axis):
    with pytest.raises(AudioChannelError, match="channel_axis"):
        audio_from_array(np.zeros((2, 1_000)), RATE, channel_axis=axis)
    with pytest.raises(AudioChannelError, match="channel_axis"):
        audio_from_array(np.zeros(1_000), RATE, channel_axis=0)


@pytest.mark.parametrize(
    ("dtype", "lowest", "silence"),
    [("int8", -128, 0), ("uint8", 0, 128), ("int16", -32_768, 0), ("int32", -(2**31), 0)],
)
def test_audio_from_array_scales_integers_by_full_scale(dtype, lowest, silence, no_warnings):
    half = lowest // 2 + silence // 2
    samples = audio_from_array(np.array([lowest, silence, half] * 200, dtype), RATE)
    np.testing.assert_array_equal(samples[:3], [-1, 0, -0.5])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_audio_from_array_returns_a_new_float32_array(dtype, no_warnings):
    array = np.linspace(-1, 1, 1_024).astype(dtype)
    samples = audio_from_array(array, RATE)
    assert samples.dtype == np.float32
    assert not np.shares_memory(samples, array)
    np.testing.assert_array_equal(samples, array.astype(np.float32))


@pytest.mark.parametrize(
    "dtype", ["int64", "uint16", "uint32", "bool", "complex64", "U1", "object"]
)
def test_audio_from_array_rejects_other_types(dtype):
    with pytest.raises(AudioSampleError, match=r"cast them.*<array>"):
        audio_from_array(np.zeros(1_000, dtype), RATE)


def test_audio_from_array_rejects_integers_kept_as_floats():
    with pytest.raises(AudioSampleError, match=r"divide those of 16 bits by 32768.*12000.*<array>"):
        audio_from_array(sine(amplitude=12_000.0), RATE)
    with pytest.raises(AudioSampleError, match=r"divide those of 16 bits by 32768.*<bytes>"):
        load_audio(encode(sine(amplitude=12_000.0), codec="FLOAT"))


def test_audio_from_array_takes_a_little_over_full_scale(no_warnings):
    assert audio_from_array(sine(amplitude=1.3), RATE).max() > 1.29


def test_audio_from_array_warns_of_twice_full_scale():
    with pytest.warns(AudioWarning, match=r"louder than full scale.*a peak of 4.*<array>"):
        assert audio_from_array(sine(hz=4_000, amplitude=4), RATE).max() == 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_samples_that_are_not_finite_are_rejected(value):
    wave = sine()
    wave[5_000] = value
    with pytest.raises(AudioSampleError, match=r"must be finite.*<array>"):
        audio_from_array(wave, RATE)
    with pytest.raises(AudioSampleError, match=r"must be finite.*<bytes>"):
        load_audio(encode(wave, codec="DOUBLE"))


# Short, empty and silent


def test_silence_is_a_sound(no_warnings):
    assert not load_audio(encode(np.zeros(RATE))).any()
    assert not audio_from_array(np.zeros(400), RATE).any()


def test_a_sound_shorter_than_a_spectrogram_frame_is_warned_of():
    with pytest.warns(AudioWarning, match=r"shorter than 25 ms.*24.9 ms, source=<bytes>"):
        assert len(load_audio(encode(noise(399)))) == 399
    with pytest.warns(AudioWarning, match=r"shorter than 25 ms.*<array>"):
        audio_from_array(np.zeros(797), 32_000, 8_000)


def test_a_sound_without_samples_is_rejected(tmp_path):
    path = tmp_path / "empty.wav"
    path.write_bytes(encode(np.zeros(0)))
    with pytest.raises(AudioEmptyError, match=r"no samples.*empty\.wav"):
        load_audio(path)
    path.write_bytes(b"")
    with pytest.raises(AudioEmptyError, match=r"no bytes.*empty\.wav"):
        load_audio(path)
    with pytest.raises(AudioEmptyError, match=r"no bytes.*<bytes>"):
        load_audio(b"")
    for shape in [(0,), (0, 2), (2, 0)]:
        with pytest.raises(AudioEmptyError, match=r"must hold samples.*<array>"):
            audio_from_array(np.zeros(shape), RATE)
    with pytest.raises(AudioEmptyError, match=r"too short.*<array>"):
        audio_from_array(np.zeros(1), 44_100)


# What is no sound


def test_load_audio_rejects_a_missing_file(tmp_path):
    path = tmp_path / "missing.wav"
    for kind in (AudioNotFoundError, FileNotFoundError, AudioError, ValueError):
        with pytest.raises(kind, match=r"No file at this path.*missing\.wav"):
            load_audio(path)
    with pytest.raises(AudioNotFoundError, match=r"tf\.io\.gfile.*gs://bucket/clip\.wav"):
        load_audio("gs://bucket/clip.wav")


def test_load_audio_rejects_what_cannot_be_opened(tmp_path):
    file = tmp_path / "file.txt"
    file.write_text("not a directory")
    for path in (tmp_path, file / "clip.wav", tmp_path / ("n" * 5_000)):
        with pytest.raises(AudioDecodeError, match=r"readable file.*test_load_audio"):
            load_audio(path)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="every file is readable to root"
)
def test_load_audio_rejects_a_file_without_permission(tmp_path):
    path = tmp_path / "secret.wav"
    path.write_bytes(encode(noise(1_000)))
    path.chmod(0)
    with pytest.raises(AudioDecodeError, match=r"ermission.*secret\.wav"):
        load_audio(path)


@pytest.mark.parametrize("name", ["notes.wav", "notes.flac", "notes.ogg", "notes.mp3", "notes.raw"])
def test_load_audio_rejects_text_by_any_name(name, tmp_path):
    path = tmp_path / name
    path.write_text("These are the notes of a day in the field.\n" * 100)
    with pytest.raises(AudioDecodeError, match=rf"cannot be decoded.*convert it.*{name}"):
        load_audio(path)
    with pytest.raises(AudioDecodeError, match=r"cannot be decoded.*convert it.*<bytes>"):
        load_audio(path.read_bytes())


def test_load_audio_rejects_a_malformed_header():
    data = bytearray(encode(noise(1_000)))
    struct.pack_into("<HH", data, 20, 0x674F, 0)
    with pytest.raises(AudioDecodeError, match=r"cannot be decoded.*<bytes>"):
        load_audio(data)


def test_load_audio_rejects_the_bytes_of_a_path(tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(encode(noise(1_000)))
    with pytest.raises(AudioDecodeError, match="pass the path as str"):
        load_audio(os.fsencode(path))


@pytest.mark.parametrize("source", [np.zeros(1_000), io.BytesIO(b"RIFF"), None, 3])
def test_load_audio_rejects_what_is_neither_path_nor_bytes(source):
    with pytest.raises(AudioError, match=rf"audio_from_array.*type {type(source).__name__}"):
        load_audio(source)


@pytest.mark.parametrize(("ending", "codec"), [("gsm", "GSM610"), ("au", "ULAW")])
def test_load_audio_warns_of_a_file_that_only_its_ending_explains(ending, codec, tmp_path):
    path = tmp_path / f"digit.{ending}"
    wave = sine(8_000, seconds=1.2)
    soundfile.write(path, wave, 8_000, format="RAW", subtype=codec)
    with pytest.warns(
        AudioWarning, match=rf"no header: read as {codec} at 8000 Hz.*digit\.{ending}"
    ):
        samples = load_audio(path, 8_000)
    assert len(samples) == len(wave)
    # GSM errs by -28.2 dB on a pure tone, u-law by -36.5 dB; ten decibels, a factor of three.
    assert decibels(samples[160:] - wave[160:], wave[160:]) < -18
    with pytest.warns(AudioWarning, match="no header"):
        assert audio_info(path).codec == codec
    with pytest.raises(AudioDecodeError, match="<bytes>"):
        load_audio(path.read_bytes())


# Cut short


@pytest.mark.parametrize("missing", [2, 1_000, 30_001])
@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU"])
def test_load_audio_returns_what_is_left_of_pcm_and_warns(container, missing, tmp_path):
    wave = noise(20_000)
    path = tmp_path / "cut"
    path.write_bytes(encode(wave, container=container)[:-missing])
    with pytest.warns(AudioWarning, match=r"cut short: \d+ of \d+ bytes.*fetch it again.*cut'"):
        samples = load_audio(path)
    np.testing.assert_array_equal(samples, wave[: 20_000 - (missing + 1) // 2])


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.9999])
def test_load_audio_returns_what_is_left_of_flac_and_warns(keep):
    wave = noise((40_000, 2))
    data = encode(wave, container="FLAC")
    with pytest.warns(AudioWarning, match=r"ends or is damaged after \d+ of 40000 frames"):
        samples = load_audio(data[: int(keep * len(data))])
    # The last block of 4,096 frames is lost with its end.
    assert len(samples) > keep * 40_000 - 2 * 4_096
    np.testing.assert_array_equal(samples, wave[: len(samples)].mean(axis=1))


def test_load_audio_returns_flac_up_to_the_damage_and_warns():
    wave = noise(40_000)
    data = bytearray(encode(wave, container="FLAC"))
    middle = len(data) // 2
    data[middle : middle + 100] = b"\xff" * 100
    with pytest.warns(AudioWarning, match="ends or is damaged after"):
        samples = load_audio(data)
    assert len(samples) > 20_000 - 2 * 4_096
    np.testing.assert_array_equal(samples, wave[: len(samples)])


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
def test_load_audio_returns_what_is_left_of_ogg_and_warns(codec):
    data = encode(noise(3 * RATE), container="OGG", codec=codec)
    whole = load_audio(data)
    for keep in (len(data) // 2, data.rindex(b"OggS"), len(data) - 10):
        with pytest.warns(AudioWarning, match="Ogg stream is cut short or damaged"):
            samples = load_audio(data[:keep])
        assert 0.2 * len(whole) < len(samples) < len(whole)
        np.testing.assert_array_equal(samples[:-960], whole[: len(samples) - 960])


def test_load_audio_returns_ogg_up_to_the_damage_and_warns():
    data = bytearray(encode(noise(3 * RATE), container="OGG", codec="VORBIS"))
    last_but_one = data.rindex(b"OggS", 0, data.rindex(b"OggS"))
    data[last_but_one + 100] ^= 0xFF
    with pytest.warns(AudioWarning, match=r"ends or is damaged after \d+ of 48000 frames"):
        assert 0.5 * 3 * RATE < len(load_audio(data)) < 3 * RATE


def test_load_audio_returns_what_is_left_of_mp3_and_warns():
    data = encode(noise(3 * RATE), container="MP3", codec="MPEG_LAYER_III")
    with pytest.warns(AudioWarning, match=r"ends or is damaged after \d+ of 48000 frames"):
        samples = load_audio(data[: len(data) // 2])
    assert 0.3 * 3 * RATE < len(samples) < 0.7 * 3 * RATE


@pytest.mark.parametrize("container", ["FLAC", "CAF"])
def test_load_audio_rejects_a_file_with_nothing_left(container):
    with pytest.raises(AudioDecodeError, match=r"cannot be decoded.*<bytes>"):
        load_audio(encode(noise(20_000), container=container)[:200])


# Headers that do not know the length


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_load_audio_reads_a_wav_that_was_written_to_a_pipe(size, no_warnings):
    wave = noise(1_000)
    data = bytearray(encode(wave))
    struct.pack_into("<I", data, 4, size)
    struct.pack_into("<I", data, data.index(b"data") + 4, size)
    np.testing.assert_array_equal(load_audio(data), wave)


def test_load_audio_reads_a_flac_that_was_written_to_a_pipe(no_warnings):
    wave = noise(10_000)
    data = bytearray(encode(wave, container="FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    assert audio_info(data).frames is None
    assert audio_info(data).duration_seconds is None
    np.testing.assert_array_equal(load_audio(data), wave)
    part = load_audio(data, start_seconds=0.25, duration_seconds=0.125)
    np.testing.assert_array_equal(part, wave[4_000:6_000])


def test_load_audio_salvages_more_than_one_block():
    wave = np.tile(noise(2**16), 33)
    data = encode(wave, container="FLAC")
    with pytest.warns(AudioWarning, match="ends or is damaged after"):
        samples = load_audio(data[:-100])
    assert len(samples) > 2**21
    np.testing.assert_array_equal(samples, wave[: len(samples)])


def test_load_audio_warns_of_a_flac_that_promises_the_impossible():
    wave = noise(10_000)
    data = bytearray(encode(wave, container="FLAC"))
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    with pytest.warns(AudioWarning, match="after 10000 of 68719476735 frames"):
        np.testing.assert_array_equal(load_audio(data), wave)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_load_audio_reads_an_mp3_of_constant_bit_rate_without_its_length(level, no_warnings):
    options = {"bitrate_mode": "CONSTANT", "compression_level": level}
    data = encode(noise(300_000), 44_100, "MP3", "MPEG_LAYER_III", **options)
    samples = load_audio(data[data.index(b"\xff\xfb", 4) :], 44_100)
    # The padding that the lost frame told to cut off, of up to two MP3 frames, is still there.
    assert 0 <= len(samples) - 300_000 <= 2 * 1_152


def test_load_audio_rejects_an_mp3_that_promises_the_impossible():
    data = bytearray(
        encode(noise(10_000), 44_100, "MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE")
    )
    struct.pack_into(">I", data, data.index(b"Xing") + 8, 0x7FFFFFFF)
    with pytest.raises(AudioDecodeError, match=r"it promises \d{13} frames.*<bytes>"):
        load_audio(data)


def test_load_audio_warns_of_an_mp3_whose_length_is_guessed_too_short(tmp_path):
    wave = np.concatenate([noise(4 * 44_100), np.zeros(12 * 44_100)])
    data = encode(
        wave, 44_100, "MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.3
    )
    path = tmp_path / "stream.mp3"
    path.write_bytes(data[data.index(b"\xff\xfb", 4) :])  # without the frame that holds the length
    with pytest.warns(AudioWarning, match=r"does not say how long.*re-encode it.*stream\.mp3"):
        assert len(load_audio(path)) < 0.9 * 16 * RATE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_audio(data + b"TAG" + bytes(125))) == 16 * RATE
        load_audio(path, duration_seconds=1)


# Messages and information


def test_warnings_point_at_the_caller():
    data = encode(noise(100))
    for call in (lambda: load_audio(data), lambda: audio_from_array(noise(100), RATE)):
        with pytest.warns(AudioWarning) as caught:
            call()
        assert [warning.filename for warning in caught] == [__file__]


def test_audio_info_reads_the_header(tmp_path, no_warnings):
    path = tmp_path / "clip"
    path.write_bytes(encode(noise((22_050, 2)), 44_100, "FLAC", "PCM_24"))
    info = audio_info(path)
    assert info == AudioInfo(44_100, 2, 22_050, "FLAC", "PCM_24")
    assert info.duration_seconds == 0.5
    with pytest.raises(AudioNotFoundError):
        audio_info(tmp_path / "missing.wav")
