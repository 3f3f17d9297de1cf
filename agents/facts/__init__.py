"""What is known of a pipeline: spec.py (what a file may say), units.py (amounts), source_kinds.py (kinds and needs in
plain words), pipeline_files.py (reading, with line numbers)."""
