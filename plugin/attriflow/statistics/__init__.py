"""How sure a comparison is: intervals, tests, effect sizes (`inference`); beside it ranks, agreement and standings."""

from attriflow.statistics.inference import (
    Interval as Interval,
)
from attriflow.statistics.inference import (
    bootstrap_interval as bootstrap_interval,
)
from attriflow.statistics.inference import (
    bootstrap_intervals as bootstrap_intervals,
)
from attriflow.statistics.inference import (
    compare as compare,
)
from attriflow.statistics.inference import (
    effect_size as effect_size,
)
from attriflow.statistics.inference import (
    example_means as example_means,
)
from attriflow.statistics.inference import (
    examples_needed as examples_needed,
)
from attriflow.statistics.inference import (
    holm as holm,
)
from attriflow.statistics.inference import (
    mean_over_examples as mean_over_examples,
)
from attriflow.statistics.inference import (
    paired_bootstrap_difference as paired_bootstrap_difference,
)
from attriflow.statistics.inference import (
    paired_permutation as paired_permutation,
)
from attriflow.statistics.inference import (
    permutation_p_values as permutation_p_values,
)
from attriflow.statistics.inference import (
    power_note as power_note,
)
from attriflow.statistics.inference import (
    two_level_interval as two_level_interval,
)
