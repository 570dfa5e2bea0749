"""Attribution of data sets that do not fit into memory, written row by row and resumable."""

from attriflow.streaming.fields import Fields
from attriflow.streaming.run import Summary, attribute_dataset, check_targets

__all__ = ["Fields", "Summary", "attribute_dataset", "check_targets"]
