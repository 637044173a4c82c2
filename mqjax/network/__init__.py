"""Networks as the search sees them: which layer reads and writes which width, and what an assignment costs.

Imports from mqjax: types, errors, mapper (tables)."""
