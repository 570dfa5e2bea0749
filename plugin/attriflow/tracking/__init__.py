"""MLflow: the evaluator plugin, logging and loading of models, artifacts."""
