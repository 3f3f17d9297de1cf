"""`python -m agents`: run_command.py, shown.py (how decisions are printed), actions_command.py, policies_command.py,
prompts_command.py, approvals_command.py."""
