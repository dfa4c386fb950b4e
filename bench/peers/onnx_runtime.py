"""ONNX Runtime: all graph optimisations, inputs and outputs bound."""

from __future__ import annotations

import numpy as np
import onnxruntime

from .onnx_files import interleaved, onnx_file, planar


class Inference:
    def __init__(self, model: str, weights, inputs, threads: int):
        inputs = planar(inputs)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        graph = onnx_file(model, weights, inputs)
        self.session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]
        self.binding = self.session.io_binding()
        self.inputs = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()}
        for name, value in self.inputs.items():
            self.binding.bind_ortvalue_input(name, value)
        for name in self.names:
            self.binding.bind_output(name)

    def run(self):
        self.session.run_with_iobinding(self.binding)

    def outputs(self) -> dict[str, np.ndarray]:
        self.run()
        values = self.binding.copy_outputs_to_cpu()
        return interleaved({name.removeprefix("output/"): value for name, value in zip(self.names, values)})


Training = None
