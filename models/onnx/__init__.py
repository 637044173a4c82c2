"""Networks as ONNX files: `file` reads one safely, `reader` makes its graph, `writer` writes one."""
