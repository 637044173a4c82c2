"""Accelerator descriptions (installed as `mqjax.hw`)."""
