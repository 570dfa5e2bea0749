"""Views: read an `Attribution` or a table of results and show it, in a terminal, as plots or as an HTML page."""
