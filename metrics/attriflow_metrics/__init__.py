"""Metrics of explanations: one module per metric, found by `attriflow.registry.metrics` under the module's name.

A metric is a frozen dataclass (its fields are its options) that is called with an `Attribution`, a `rescore` function
and a rationale, and returns `MetricValues`: a number, or the reason why there is none, for every target step. It sees
no model, tokenizer or device. Faithfulness metrics can also `plan` the changed inputs that a call will score, so that
the caller can run them packed with those of other steps, examples and metrics.

Importing this package imports neither torch nor ferret.
"""

__helpers__ = ("ferret", "statistics", "synthetic")
"""Modules with public names that are not metrics."""
