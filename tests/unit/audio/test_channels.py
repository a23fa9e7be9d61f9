"""Tests of the detection of inverted and dead channels, with made signals."""

import numpy as np
import pytest

from ast_keras.audio.channels import ChannelMoments, channel_defect

RNG = np.random.default_rng(0)
SOUND = RNG.normal(0, 0.1, 50_000)
OTHER = RNG.normal(0, 0.1, 50_000)
TONE = np.sin(np.arange(50_000) * 2 * np.pi / 16)
SILENCE = np.zeros(50_000)


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ([SOUND], None),
        ([SOUND, SOUND], None),
        ([SOUND, OTHER], None),
        ([SOUND, 0.05 * OTHER], None),
        ([SOUND, OTHER - 0.5 * SOUND], None),
        ([SILENCE, SILENCE], None),
        ([SOUND, -SOUND], ("inverted", 0)),
        ([TONE, -TONE], ("inverted", 0)),
        ([SOUND, 0.3 * OTHER - SOUND], ("inverted", 0)),
        ([-0.3 * SOUND, SOUND], ("inverted", 1)),
        ([0.01 * SOUND + 0.5, 0.5 - 0.01 * SOUND], ("inverted", 0)),
        ([-SOUND, SOUND, SOUND], ("inverted", 1)),
        ([SOUND, SILENCE], ("dead", 0)),
        ([SILENCE, SOUND], ("dead", 1)),
        ([SILENCE + 0.2, SOUND], ("dead", 1)),
        ([0.001 * OTHER, SOUND], ("dead", 1)),
        ([SOUND, OTHER, SILENCE, SOUND], ("dead", 0)),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.int32])
def test_defects_and_the_channel_to_use(channels, expected, dtype):
    frames = np.stack(channels, axis=1)
    if dtype != np.float32:
        frames = frames * np.iinfo(dtype).max * 0.9
    frames = frames.astype(dtype)
    assert channel_defect(frames) == expected
    assert channel_defect(frames[:20]) == expected
    moments = ChannelMoments()
    for block in np.array_split(frames, 7):
        moments.add(block)
    assert moments.defect() == expected


def test_no_frames_have_no_defect():
    assert channel_defect(np.zeros((0, 2), np.float32)) is None
    assert channel_defect(np.full((9, 2), np.nan, np.float32)) is None
