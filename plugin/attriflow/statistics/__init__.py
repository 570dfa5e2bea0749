"""How sure a comparison is: intervals, tests, effect sizes (`inference`); beside it ranks, agreement and standings."""

from attriflow.statistics.inference import (
    Interval,
    bootstrap_interval,
    bootstrap_intervals,
    compare,
    effect_size,
    example_means,
    examples_needed,
    holm,
    mean_over_examples,
    paired_bootstrap_difference,
    paired_permutation,
    permutation_p_values,
    power_note,
)

__all__ = [
    "Interval",
    "bootstrap_interval",
    "bootstrap_intervals",
    "compare",
    "effect_size",
    "example_means",
    "examples_needed",
    "holm",
    "mean_over_examples",
    "paired_bootstrap_difference",
    "paired_permutation",
    "permutation_p_values",
    "power_note",
]
