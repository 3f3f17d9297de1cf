"""The specialists: one folder each. To add one, write its folder and name it in registry.py.

Read in this order: specialist.py (what makes one), decision.py (what it decides), catalogue.py (its actions, from a
file), told.py (facts as they are told), rules.py (what is permitted, and what the rules decide), wording.py (what
people read), registry.py (which there are), then the folders ingestion/, quality/ and infrastructure/.
"""
