"""torchaudio's Kaldi filterbank with the settings of the AST authors, and a record of its error.

    python -m tests.reference.torchaudio_fbank      # rewrites goldens/torchaudio_fbank_errors.json

Needs torch and torchaudio. Only torchaudio's pure Python file is loaded, so any version of torch
works.
"""

import importlib.util
import json
import pathlib
import sys
import types

import numpy as np

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "torchaudio_fbank_errors.json"


def load():
    """Returns a function from waveform `[samples]` to log-mels `[frames, 128]`, both NumPy."""
    import torch

    sys.path.append(str(pathlib.Path(sys.prefix, "extra")))  # where `make benchmark` installs it
    package = importlib.util.find_spec("torchaudio")
    if package is None:
        raise ImportError("torchaudio is not installed")
    # torchaudio's package would load a library for one torch version, which kaldi.py does not use.
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
    path = pathlib.Path(package.submodule_search_locations[0]) / "compliance" / "kaldi.py"
    spec = importlib.util.spec_from_file_location("torchaudio_kaldi", path)
    kaldi = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kaldi)

    def fbank(waveform, window="hann"):
        return kaldi.fbank(
            torch.from_numpy(waveform)[None], htk_compat=True, sample_frequency=16000,
            use_energy=False, window_type={"hann": "hanning"}.get(window, window),
            num_mel_bins=128, dither=0.0, frame_shift=10,
        ).numpy()  # fmt: skip

    return fbank


def main():
    from tests.reference.fbank_cases import NUM_CASES, make_case
    from tests.reference.kaldi_fbank import fbank as exact

    fbank = load()
    errors = []
    for seed in range(NUM_CASES):
        _, window, waveform = make_case(seed)
        error = np.abs(fbank(waveform, window) - exact(waveform, window)).max()
        errors.append(float(f"{error:.3g}"))
    GOLDEN.write_text(json.dumps({"max_abs_error_by_seed": errors}) + "\n")
    print(f"median {np.median(errors):.2g}, largest {max(errors):.2g}: {GOLDEN}")


if __name__ == "__main__":
    main()
