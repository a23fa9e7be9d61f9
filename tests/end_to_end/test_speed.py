"""Speed and memory relative to the same network of Keras's own layers, measured in the same run."""

import json
import subprocess
import sys

import pytest

from tests.helpers.paths import GOLDENS, ROOT

# Measured after the last intended change with `python -m benchmarks.regression`: two cores, AVX2.
RECORDED = json.loads((GOLDENS / "speed_ratios.json").read_text())
# A busy machine changes a ratio by a tenth; an implementation that lost its advantage, by a third.
LARGEST_LOSS = 0.3


@pytest.mark.slow
def test_no_ratio_falls_by_more_than_a_third(record_property):
    command = [sys.executable, "-m", "benchmarks.regression"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    record_property("ratios", found)
    print(f"ratios {found}, recorded {RECORDED}")
    limits = {name: (1 - LARGEST_LOSS) * ratio for name, ratio in RECORDED.items()}
    lost = {name: found[name] for name in RECORDED if found[name] < limits[name]}
    assert not lost, f"slower or larger than {RECORDED} allows: {lost}"
