"""How sure a comparison is: intervals, tests, effect sizes (`inference`); beside it ranks, agreement and standings."""

from attriflow.statistics.inference import (
    Interval as Interval,
    bootstrap_interval as bootstrap_interval,
    bootstrap_intervals as bootstrap_intervals,
    compare as compare,
    effect_size as effect_size,
    example_means as example_means,
    examples_needed as examples_needed,
    holm as holm,
    mean_over_examples as mean_over_examples,
    paired_bootstrap_difference as paired_bootstrap_difference,
    paired_permutation as paired_permutation,
    permutation_p_values as permutation_p_values,
    power_note as power_note,
)
