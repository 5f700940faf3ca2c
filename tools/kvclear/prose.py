"""Text for canaries: plain sentences that nobody has sent before and nobody will send again."""

from __future__ import annotations

import random

_WHO = [
    "a baker",
    "the old captain",
    "my neighbour",
    "a quiet child",
    "the mayor",
    "two sailors",
    "the gardener",
    "a tired nurse",
    "the carpenter",
    "an owl",
    "the last passenger",
    "a clerk",
    "the miller",
    "our teacher",
    "a fox",
    "the painter",
    "some travellers",
    "the widow",
    "a blacksmith",
    "the pilot",
    "her brother",
    "a monk",
    "the librarian",
    "a farmer",
]
_DID = [
    "counted",
    "mended",
    "carried",
    "forgot",
    "sold",
    "painted",
    "followed",
    "hid",
    "weighed",
    "borrowed",
    "described",
    "measured",
    "cleaned",
    "opened",
    "buried",
    "copied",
    "returned",
    "lost",
    "named",
    "drew",
    "lifted",
    "watched",
    "kept",
    "divided",
]
_WHAT = [
    "broken lamps",
    "letters",
    "silver spoons",
    "baskets of plums",
    "wet ropes",
    "maps",
    "the church bells",
    "empty barrels",
    "old coins",
    "paper boats",
    "heavy chains",
    "seeds",
    "a green door",
    "woollen coats",
    "glass jars",
    "three ladders",
    "the village clock",
    "charts",
    "candles",
    "wooden wheels",
    "river stones",
    "keys",
    "blankets",
    "oars",
]
_WHERE = [
    "behind the mill",
    "near the harbour",
    "under a bridge",
    "on the hill",
    "before dawn",
    "after the rain",
    "in the cold barn",
    "beside the road",
    "at the market",
    "during the feast",
    "along the shore",
    "between two walls",
    "above the stable",
    "far from town",
    "without a word",
    "by candle light",
    "in early spring",
    "across the valley",
    "within an hour",
    "at low tide",
]


def prose(nonce: str, words: int) -> str:
    """About `words` words that begin with the nonce, so that no two share even a first block."""
    rng = random.Random(nonce)
    parts = [f"{nonce}:"]
    count = 1
    while count < words:
        pieces = (rng.choice(_WHO), rng.choice(_DID), str(rng.randrange(2, 9999)))
        sentence = " ".join((*pieces, rng.choice(_WHAT), rng.choice(_WHERE)))
        parts.append(sentence[0].upper() + sentence[1:] + ".")
        count += len(sentence.split())
    return " ".join(parts)
