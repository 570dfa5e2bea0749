"""Attributions as files and as data frames. The suffix of a path chooses the format (see `FORMATS`)."""

from attriflow.io.files import DEFAULT, FORMATS, iterate, load, save, suffix_of
from attriflow.io.frames import to_dataframe
from attriflow.io.writing import check_outputs, write_content, write_with

__all__ = [
    "DEFAULT", "FORMATS", "check_outputs", "iterate", "load", "save", "suffix_of", "to_dataframe", "write_content",
    "write_with",
]  # fmt: skip
