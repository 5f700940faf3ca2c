"""The common words that are one token each, and of which answers are made.

Their order in ``words.txt`` is the vocabulary: changing it changes token ids, hence block hashes.
None of them is ``user`` or ``assistant``: a real chat template spends several tokens on those.
"""

from importlib.resources import files

WORDS: tuple[str, ...] = tuple(files("kvsim").joinpath("words.txt").read_text("ascii").split())
