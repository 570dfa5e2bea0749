"""From characters to tokens, segments and units, with no model in sight."""
