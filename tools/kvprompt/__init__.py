"""Text, tokens, blocks, the prefix tree and the ideal.

Admission rule: at least two tools need it, and it is about what prompts are and what they share.
No clock, no network, no randomness that was not given (`new_salt` is the one exception).
"""
