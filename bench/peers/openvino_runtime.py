"""OpenVINO: float32, for latency, inputs and outputs shared without copies."""

from __future__ import annotations

import numpy as np
import openvino

from .onnx_files import interleaved, onnx_file, planar


class Inference:
    def __init__(self, model: str, weights, inputs, threads: int):
        self.inputs = planar(inputs)
        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        self.compiled = core.compile_model(core.read_model(onnx_file(model, weights, self.inputs)), "CPU", settings)
        self.request = self.compiled.create_infer_request()

    def run(self):
        return self.request.infer(self.inputs, share_inputs=True, share_outputs=True)

    def outputs(self) -> dict[str, np.ndarray]:
        found = self.run()
        return interleaved({port.any_name.removeprefix("output/"): np.array(value) for port, value in found.items()})


Training = None
