"""From a question to what is given: agent.py asks a model and checks its decision, rules_agent.py lets the rules
decide, approval.py says what a person has to approve. Read in this order."""
