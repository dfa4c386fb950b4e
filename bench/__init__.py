"""The benchmark: netc beside other libraries, on equal models, weights and inputs, and beside the machine's limit.

    models   the model files, and what goes in
    peers    each implementation: PyTorch, JAX, ONNX Runtime, OpenVINO, and netc through its public face
    worker   a process that holds one implementation;  process   the other side of it, with time limits
    measure  rows: results compared, then times in turns;  report, plot  what is shown;  command  the command line
"""
