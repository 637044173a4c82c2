"""Optima of spaces too large to sweep, proven level by level: see docs/PROOF.md."""
