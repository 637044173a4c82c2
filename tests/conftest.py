"""Strict settings for every test: no silent rank promotion between arrays of different rank."""
