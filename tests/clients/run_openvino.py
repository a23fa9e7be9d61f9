"""Scores of a SavedModel or a TFLite file in OpenVINO: RESULT MODEL CLIPS."""

import sys

import numpy as np
import openvino

result, path, clips = sys.argv[1:]
core = openvino.Core()
# The default on some processors is bfloat16, with an error of 0.04.
model = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
found = [model([clip[None]])[0][0] for clip in np.load(clips)]
np.savez(result, scores=found)
