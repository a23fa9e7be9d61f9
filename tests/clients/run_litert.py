"""Scores of a TFLite file in LiteRT: RESULT MODEL CLIPS (interpreter | cpu | gpu)."""

import sys

import numpy as np

result, path, clips, how = sys.argv[1:]
clips = np.load(clips)
accelerated = False
if how == "interpreter":
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=path).get_signature_runner("serving_default")
    found = [runner(waveform=clip[None])["scores"][0] for clip in clips]
else:
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    model = CompiledModel.from_file(path, HardwareAccelerator[how.upper()])
    accelerated = model.is_fully_accelerated()
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    classes = model.get_output_buffer_requirements(0, 0)["buffer_size"] // 4
    found = []
    for clip in clips:
        inputs[0].write(np.ascontiguousarray(clip[None]))
        model.run_by_index(0, inputs, outputs)
        found.append(outputs[0].read(classes, np.float32).copy())
np.savez(result, scores=found, accelerated=accelerated)
