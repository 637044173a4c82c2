"""Finding the best mapping of a layer, proven or plainly called unproven, and tables of such optima.

Imports from mqjax: types, errors, arch, cost, mapspace, io."""
