"""Reuse, traffic, energy and cycles of given mappings: general, and what every reported number comes from."""
