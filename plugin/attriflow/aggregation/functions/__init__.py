"""Aggregation functions: `(values [..., n], dim) -> [...]`; several per module, all registered by name."""
