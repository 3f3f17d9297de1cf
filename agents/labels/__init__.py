"""From rules to labels: label.py, labelling.py (the worst wins), policy_model.py, policy_file.py and policy.py (numbers
and how they change), history.py and hysteresis.py (readings over time). The rules are in the specialists' folders."""
