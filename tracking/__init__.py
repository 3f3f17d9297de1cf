"""The only importer of mlflow: where runs are kept, and what a run holds."""
