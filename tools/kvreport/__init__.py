"""Round stats in, conclusions out: what a KV cache is worth, and whether the figure holds.

Numbers are computed once (`conclude`), words are one file a language (`english`), and renderers
(`text`, `markdown`, `json`) only set what the chapters say. Only `cli` and `inputs` touch the
world.
"""
