"""`ast_keras.embed`: a folder of sounds, for the linear probe of the documentation."""

import re

import numpy as np
import pytest
import soundfile
from absl import flags

from ast_keras.commands.flags import parse_options
from ast_keras.embed import Options, main
from tests.helpers.audio import RATE
from tests.helpers.models import saved_classifier
from tests.helpers.paths import ROOT


def documented_probe():
    """Returns the Python example of the documentation that trains a linear probe."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        for example in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
            if "LogisticRegression" in example:
                return example
    raise AssertionError("no example with LogisticRegression")


def test_command_embeds_a_folder_for_the_documented_probe(tmp_path, monkeypatch, capsys):
    # Two kinds of noise, in a folder each.
    rng = np.random.default_rng(0)
    for kind in ("low", "high"):
        (tmp_path / "sounds" / kind).mkdir(parents=True)
        for number in range(10):
            noise = rng.standard_normal(RATE)
            smooth = np.convolve(noise, np.ones(8) / 8, "same")
            wave = smooth if kind == "low" else noise - smooth
            soundfile.write(tmp_path / "sounds" / kind / f"{number}.wav", 0.1 * wave, RATE)
    (tmp_path / "sounds" / "low" / "broken.wav").write_text("no sound")
    output = tmp_path / "vectors.parquet"
    line = ["--model", str(saved_classifier()), "--output", str(output), str(tmp_path / "sounds")]
    assert main(parse_options(Options, line)) == 1  # one file is not audio
    printed = capsys.readouterr()
    assert "error: The audio cannot be decoded" in printed.err
    assert printed.out.strip() == f"20 vectors of 20 sounds: {output}"
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(documented_probe(), "documentation", "exec"), names)
    assert names["accuracies"].mean() > 0.9


def test_output_is_required():
    with pytest.raises(flags.Error, match="--output"):
        parse_options(Options, ["--model", "m", "a.wav"])
