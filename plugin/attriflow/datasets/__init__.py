"""Rows of data sets, read a few at a time: files, Hugging Face data sets, the demo's data."""

from attriflow.datasets.opening import open_dataset
from attriflow.datasets.rows import Row, Rows

__all__ = ["Row", "Rows", "open_dataset"]
