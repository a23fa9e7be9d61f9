"""Decoding by ffmpeg: real files where it is installed, and a stand-in for its failures."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from ast_keras.audio import audio_info, ffmpeg, load_audio
from ast_keras.audio.blocks import sound_blocks
from ast_keras.errors import ArgumentError, AudioDecodeError, AudioEmptyError, AudioWarning
from tests.helpers.audio import RATE, encode, sine

M4A = b"\0\0\0\x1cftypM4A " + bytes(40)
# Suffix, arguments of the encoder, and the largest delay that it adds to the sound, in samples.
ENCODINGS = [
    (".m4a", ("-c:a", "aac"), 0),
    (".mov", ("-c:a", "alac"), 0),
    (".aac", ("-c:a", "aac"), 1024),
    (".wma", ("-c:a", "wmav2"), 4096),
    (".avi", ("-c:a", "pcm_s16le"), 0),
    (".ts", ("-c:a", "aac"), 1024),
]


@pytest.fixture(scope="session")
def real_ffmpeg():
    command = os.environ.get("AST_KERAS_FFMPEG", "ffmpeg")
    try:
        import imageio_ffmpeg

        command = shutil.which(command) or imageio_ffmpeg.get_ffmpeg_exe()
    except ImportError:
        command = shutil.which(command)
    if command is None:
        pytest.skip(reason="neither ffmpeg nor the package imageio-ffmpeg is installed")
    return command


@pytest.fixture
def convert(real_ffmpeg, tmp_path, monkeypatch):
    """Function that writes a 3 s tone through ffmpeg, with the given name and arguments."""
    monkeypatch.setenv("AST_KERAS_FFMPEG", real_ffmpeg)

    def write(name, *arguments, samples=None, rate=RATE):
        wav = tmp_path / "source.bin"
        wav.write_bytes(encode(TONE if samples is None else samples, rate))
        path = tmp_path / name
        command = [real_ffmpeg, "-v", "error", "-y", "-i", wav, *arguments, f"file:{path}"]
        subprocess.run(command, check=True)
        return path

    return write


TONE = sine(seconds=3) * np.linspace(0.2, 1, 3 * RATE)


@pytest.mark.parametrize(("suffix", "arguments", "delay"), ENCODINGS)
def test_sound_survives_each_format(suffix, arguments, delay, convert):
    path = convert(f"tone{suffix}", *arguments)
    samples = load_audio(path)
    # Encoders fill the last block, and WMA drops a part of one: up to 2048 samples.
    assert -2048 <= len(samples) - len(TONE) <= delay + 2048
    found = max(
        np.corrcoef(samples[lag : lag + 40_000], TONE[:40_000])[0, 1]
        for lag in range(0, delay + 1, 32)
    )
    assert found > 0.99
    assert audio_info(path)[:3] == (RATE, 1, None)
    np.testing.assert_array_equal(load_audio(path.read_bytes()), samples)


def test_spans_and_blocks_equal_parts_of_the_whole_file(convert):
    path = convert("tone.m4a", "-c:a", "aac")
    whole = load_audio(path)
    for start, duration in [(0, 0.1), (0.3, 0.5), (1.00003, 0.25), (2.9, 0.05), (2.9, None)]:
        part = load_audio(path, start_seconds=start, duration_seconds=duration)
        last = None if duration is None else round((start + duration) * RATE)
        np.testing.assert_array_equal(part, whole[round(start * RATE) : last])
    blocks = list(sound_blocks(path, block_seconds=0.7))
    assert len(blocks) == 5
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    with pytest.raises(AudioEmptyError, match=r"tone\.m4a"):
        load_audio(path, start_seconds=60.0)


def test_rate_and_channels_are_those_of_the_file(convert):
    stereo = np.stack([sine(rate=44_100), np.zeros(44_100)], axis=1)
    path = convert("two.m4a", "-c:a", "alac", samples=stereo, rate=44_100)
    assert audio_info(path)[:2] == (44_100, 2)
    left = load_audio(path, 44_100, channel=0)
    assert len(left) == 44_100
    np.testing.assert_allclose(left, stereo[:, 0], atol=1 / 32_768)
    assert not load_audio(path, channel=1).any()


@pytest.mark.parametrize("name", ["x.wav", "x.gsm", "X.M4A", "-i.m4a", "http:x.m4a", "a%d\n[.mkv"])
def test_content_decides_and_a_name_is_never_an_address(name, convert, tmp_path, monkeypatch):
    path = convert("tone.m4a", "-c:a", "alac").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(load_audio(path.name)) == 3 * RATE


def test_damaged_files_are_salvaged_with_a_warning(convert, tmp_path):
    path = convert("tone.mp4", "-c:a", "aac", "-movflags", "+faststart")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.warns(AudioWarning, match=r"s that can be decoded are used.*tone\.mp4'"):
        samples = load_audio(path)
    assert 1.2 * RATE < len(samples) < 1.8 * RATE
    with pytest.warns(AudioWarning, match="damaged or cut short"):
        assert sum(map(len, sound_blocks(path, block_seconds=0.5))) == len(samples)
    whole = convert("tone.m4a", "-c:a", "aac").read_bytes()
    with pytest.raises(AudioDecodeError, match="ffmpeg: moov atom not found"):
        load_audio(whole[: len(whole) // 2])


def test_film_without_sound_is_refused(convert):
    path = convert("film.mkv", "-f", "lavfi", "-i", "color=s=16x16:d=0.1", "-map", "1:v")
    with pytest.raises(AudioDecodeError, match=r"no audio stream.*film\.mkv"):
        load_audio(path)


def test_playlists_do_not_open_other_files(convert, tmp_path):
    secret = convert("secret.ts", "-c:a", "aac")
    for name, text in [
        ("list.m4a", f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{secret}\n#EXT-X-ENDLIST\n"),
        ("concat.m4a", f"ffconcat version 1.0\nfile '{secret.name}'\n"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(AudioDecodeError, match=name):
            load_audio(tmp_path / name)


# --- Without ffmpeg, and with a stand-in for it ---


@pytest.mark.parametrize("setting", ["off", "0", "OFF"])
def test_without_ffmpeg_the_error_names_the_format_and_the_command(setting, monkeypatch, tmp_path):
    monkeypatch.setenv("AST_KERAS_FFMPEG", setting)
    path = tmp_path / "voice.m4a"
    path.write_bytes(M4A)
    for read in (load_audio, audio_info, lambda p: list(sound_blocks(p))):
        with pytest.raises(AudioDecodeError, match=r"MP4.*ffmpeg -i.*voice\.m4a'$"):
            read(path)
    (tmp_path / "old.wma").write_text("no sound")  # the suffix names the format
    with pytest.raises(AudioDecodeError, match="its format is WMA"):
        load_audio(tmp_path / "old.wma")


def test_wrong_setting_is_refused(monkeypatch):
    monkeypatch.setenv("AST_KERAS_FFMPEG", "/no/such/command")
    with pytest.raises(ArgumentError, match="AST_KERAS_FFMPEG=/no/such/command"):
        load_audio(M4A)


@pytest.mark.parametrize("content", [b"some text\n" * 99, b"RIFF\x24\0\0\0WAVEfmt ", bytes(900)])
def test_damaged_files_of_other_formats_do_not_start_ffmpeg(content, monkeypatch, tmp_path):
    monkeypatch.setattr(subprocess, "Popen", None)
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(AudioDecodeError, match=r"x\.wav"):
        load_audio(tmp_path / "x.wav")


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Function that puts a Python program in the place of ffmpeg."""

    def install(code):
        path = tmp_path / "ffmpeg"
        path.write_text(
            f"#!{sys.executable} -S\nimport struct, sys, time\n"
            "header = struct.pack('>4s5I', b'.snd', 24, 2**32 - 1, 6, 8000, 2)\n"
            f"out = sys.stdout.buffer\n{code}"
        )
        path.chmod(0o755)
        monkeypatch.setenv("AST_KERAS_FFMPEG", str(path))

    return install


def test_samples_arrive_as_they_were_sent(stand_in):
    stand_in("out.write(header + struct.pack('>8f', *(x / 4 for x in range(-4, 4))) * 100)")
    samples = load_audio(M4A, 8_000, channel=1)
    np.testing.assert_array_equal(samples, [-0.75, -0.25, 0.25, 0.75] * 100)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("time.sleep(60)", "ffmpeg stalled for 0.3 s"),
        ("out.write(header); out.flush(); time.sleep(60)", "ffmpeg stalled for 0.3 s"),
        ("out.write(header)\nwhile 1: out.write(bytes(2**16))", "more than 12 hours"),
        ("print('[x @ 0x1] bad thing', file=sys.stderr)", r"\(ffmpeg: bad thing;"),
        ("sys.exit(3)", "failed without a message"),
        ("out.write(b'no AU' * 99)", "failed without a message"),
        ("out.write(header)", "it contains no samples"),
        ("sys.stderr.write('x' * 10**6); sys.exit(1)", r"ffmpeg: xxxx"),
    ],
)
def test_failures_are_one_line_and_leave_no_process(code, reason, stand_in, monkeypatch):
    stand_in(code)
    monkeypatch.setattr(ffmpeg, "_STALL_SECONDS", 0.3)
    monkeypatch.setattr(ffmpeg, "_MAX_VALUES", 2**20)
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1]
    )
    begin = time.monotonic()
    with pytest.raises(AudioDecodeError, match=reason) as caught:
        load_audio(M4A)
    assert time.monotonic() - begin < 5
    assert "\n" not in str(caught.value)
    assert "source=<bytes>" in str(caught.value)
    assert [process.returncode is not None for process in started] == [True]


def test_failure_after_some_audio_is_a_warning(stand_in):
    stand_in("out.write(header + bytes(8 * 4000)); out.flush(); sys.exit(1)")
    with pytest.warns(AudioWarning, match=r"ffmpeg: it failed.*the 0\.5 s that can be decoded"):
        assert len(load_audio(M4A, 8_000)) == 4_000


def test_only_a_whole_read_waits_for_the_end(stand_in):
    stand_in("out.write(header)\nwhile 1: out.write(bytes(2**16))")
    assert audio_info(M4A)[:2] == (8_000, 2)
    assert len(load_audio(M4A, 8_000, start_seconds=1.0, duration_seconds=2.0)) == 16_000


def test_every_suffix_is_lower_case_and_listed_once():
    suffixes = ffmpeg.FFMPEG_SUFFIXES
    assert len(set(suffixes)) == len(suffixes)
    assert all(s == pathlib.PurePath(f"x{s}").suffix.lower() for s in suffixes)
