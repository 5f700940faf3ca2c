"""Makes plans: the requests of a scenario, their order, their text and what they share.

No clock; the network only to count tokens, and only with --url.
"""
