"""Everything about one OpenAI-compatible endpoint: weights, the vLLM server, the simulator, where to send."""
