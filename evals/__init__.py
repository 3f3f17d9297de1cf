"""Cases whose answer is known, scored: cases x prompt variants x scorers, logged to MLflow."""
