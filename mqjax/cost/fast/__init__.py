"""The same model for whole chunks of mappings at all widths at once; what it cannot price exactly it says."""
