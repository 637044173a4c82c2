"""Networks as modules of Flax NNX: `program` has JAX trace one, `reader` makes its graph, `handlers` say what each op becomes."""
