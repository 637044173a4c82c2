"""The cost model (docs/MODEL.md): what a mapping costs, exactly. `exact` prices given mappings, `fast` whole chunks of them.

Imports from mqjax: types, errors, arch, mapspace.mapping (the form in which mappings arrive)."""
