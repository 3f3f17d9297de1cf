"""One OpenAI-compatible endpoint: reply.py (what comes back, or why nothing does), transport.py and lean_client.py (one
try), completion.py (its answer, read strictly), client.py (tries, bounds), parameters.py, memory.py (learned once)."""
