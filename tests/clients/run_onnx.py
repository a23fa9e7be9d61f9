"""Scores of an ONNX file in ONNX Runtime: RESULT MODEL CLIPS."""

import sys

import numpy as np
import onnxruntime

result, path, clips = sys.argv[1:]
session = onnxruntime.InferenceSession(path)
found = [session.run(["scores"], {"waveform": clip[None]})[0][0] for clip in np.load(clips)]
np.savez(result, scores=found)
