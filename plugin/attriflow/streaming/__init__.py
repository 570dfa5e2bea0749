"""Attribution of data sets that do not fit into memory, written row by row and resumable."""

from attriflow.streaming.fields import Fields
from attriflow.streaming.plan import Estimate, estimate, seconds_of
from attriflow.streaming.run import Summary, attribute_dataset, check_targets

__all__ = ["Estimate", "Fields", "Summary", "attribute_dataset", "check_targets", "estimate", "seconds_of"]
