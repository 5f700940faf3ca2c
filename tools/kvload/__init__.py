"""Send a plan's requests to an OpenAI-compatible endpoint; one timing record a line."""
