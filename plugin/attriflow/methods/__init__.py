"""Attribution methods, one per file; the file's name is the method's name.

A method is a frozen dataclass (its fields are its options) called with an `Engine` that returns `Scores`. Registering
it is all it takes for the evaluator, the command line, the docs tables and the property tests to pick it up.
"""
