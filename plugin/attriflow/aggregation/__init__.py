"""Aggregators, one per file: `Attribution -> Attribution`; the file's name is the aggregator's name."""
