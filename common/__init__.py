"""What folders share: console.py (exit codes, errors, tables, progress), strict.py (models for what comes in),
located.py (files with line numbers), whole_file.py. It imports nothing of ours."""
