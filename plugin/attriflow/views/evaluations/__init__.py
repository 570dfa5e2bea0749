"""Tables of an evaluation as reports, boards and plots."""
