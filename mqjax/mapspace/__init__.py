"""Mapspaces: which mappings of a layer there are, as records, as arrays, and by number.

Imports from mqjax: types, errors, arch."""
