"""Runs over many pipelines and what they leave: report.py (one pipeline's row), orchestrator.py (three agents at once),
batch.py (a run of any length), rows.py (its file), tally.py (its counts), approvals.py (what a person decides on)."""
