"""Flax networks and their quantization (installed as `mqjax.models`)."""
