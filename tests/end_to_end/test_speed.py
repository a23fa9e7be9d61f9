"""Speed and memory beside the same network of Keras's own layers, measured in the same run."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# As measured when it was last changed on purpose: two cores, AVX2, `python -m benchmarks.guard`.
RECORDED = json.loads((ROOT / "tests/goldens/speed_ratios.json").read_text())
# A shared machine moves a ratio by a tenth; a form that lost its point, by a third and more.
LOSS = 0.3


@pytest.mark.slow
def test_no_ratio_falls_by_more_than_a_third(record_property):
    command = [sys.executable, "-m", "benchmarks.guard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    record_property("ratios", found)
    print(f"ratios {found}, recorded {RECORDED}")
    lost = {name: found[name] for name in RECORDED if found[name] < (1 - LOSS) * RECORDED[name]}
    assert not lost, f"slower or larger than {RECORDED} allows: {lost}"
