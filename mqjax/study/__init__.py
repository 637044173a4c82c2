"""The search for bit-widths: Pareto dominance, NSGA-II, the study from table to front, and its run folder.

Imports from mqjax: types, errors, arch, mapper, network, io."""
