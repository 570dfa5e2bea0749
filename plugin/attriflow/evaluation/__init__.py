"""A data set x methods x step functions x metrics: tidy tables and a leaderboard. Knows no MLflow."""
