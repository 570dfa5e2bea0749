"""Did something get slower or worse? Rules, measurements, verdicts; knows neither models nor MLflow."""
