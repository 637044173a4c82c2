"""Accuracy of quantized networks: calibrated, briefly trained, trained.

Imports from mqjax: types, errors, data, io, models."""
