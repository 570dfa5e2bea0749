"""A third-party distribution with one part of each kind, found through entry points."""
