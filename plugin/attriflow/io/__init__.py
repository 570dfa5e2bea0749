"""Attributions as files and as data frames. The suffix of a path chooses the format (see `FORMATS`)."""

from attriflow.io.files import DEFAULT, FORMATS, check_free, iterate, load, save, suffix_of, write_with
from attriflow.io.frames import to_dataframe

__all__ = ["DEFAULT", "FORMATS", "check_free", "iterate", "load", "save", "suffix_of", "to_dataframe", "write_with"]
