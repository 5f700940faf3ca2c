"""What the prompts of a trace can be made of here: token ids, counted words, or guessed ones."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from kvengine.identify import Identity, identify
from kvengine.server import Server
from kvpipe.process import ToolError
from kvpipe.records import Calibrated
from kvplan.counting import usage_of
from kvplan.lexicon import BETWEEN, LEAD, Lexicon, estimated_words, lexicon_of
from kvplan.measure import Measure
from kvplan.plans import Endpoint, Settings
from kvplan.wording import Ids, Words

_LEAD_TOKENS = 2
"""Of `LEAD`, where nobody counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tongue:
    """A wording with the layout that it needs, and who vouches for its lengths."""

    wording: Ids | Words
    measure: Measure
    calibrated: Calibrated
    floor: int | None
    server: Server | None = None
    found: Identity | None = None
    lexicon: Lexicon | None = None
    note: str | None = None

    @property
    def model(self) -> str | None:
        """As the server names it; None where none was asked."""
        return None if self.found is None else self.found.model


@asynccontextmanager
async def tongue(
    settings: Settings, endpoint: Endpoint | None, measure: Measure
) -> AsyncIterator[Tongue]:
    """Token ids for completions; for chat words, which the server's tokenizer counts if it can.

    Raises ToolError, Unreachable.
    """
    if endpoint is None:
        yield (
            _ids(settings, measure)
            if settings.api == "completions"
            else _guess(measure, "no --url to count with")
        )
        return
    async with Server(endpoint.url, endpoint.api_key, endpoint.headers) as server:
        found = await identify(server, endpoint.model)
        if settings.api == "completions":
            await _check_ids(server, found.model, settings)
            yield _ids(settings, measure, server, found)
            return
        lexicon = await lexicon_of(server, found.model)
        if lexicon is None:
            yield _guess(measure, "no /tokenize here", server, found)
        else:
            yield _counted(measure, lexicon, server, found)


def _ids(
    settings: Settings,
    measure: Measure,
    server: Server | None = None,
    found: Identity | None = None,
) -> Tongue:
    return Tongue(
        wording=Ids(ids=settings.ids),
        measure=measure,
        calibrated="token_ids",
        floor=0,
        server=server,
        found=found,
    )


def _guess(
    measure: Measure, why: str, server: Server | None = None, found: Identity | None = None
) -> Tongue:
    laid = replace(measure, head=_LEAD_TOKENS)
    return Tongue(
        wording=Words(words=estimated_words(), lead=_lead(laid), sentinel_front=0),
        measure=laid,
        calibrated="none",
        floor=None,
        server=server,
        found=found,
        note=f"lengths are estimated, a token for each word: {why}",
    )


def _counted(measure: Measure, lexicon: Lexicon, server: Server, found: Identity) -> Tongue:
    laid = replace(measure, head=len(lexicon.head), foot=len(lexicon.foot))
    note = None
    if laid.added:
        note = (
            f"the chat template's head of {laid.head} tokens fills a block: {laid.added} tokens "
            "stand before the trace's first block"
        )
    return Tongue(
        wording=Words(words=tuple(lexicon.tokens), lead=_lead(laid), sentinel_front=lexicon.floor),
        measure=laid,
        calibrated="tokenize",
        floor=lexicon.floor,
        server=server,
        found=found,
        lexicon=lexicon,
        note=note,
    )


def _lead(measure: Measure) -> str:
    """What every prompt begins with, padded to whole blocks where the head fills one."""
    return " ".join([LEAD, *[BETWEEN] * (measure.front - measure.head)])


async def _check_ids(server: Server, model: str, settings: Settings) -> None:
    """One tiny probe with the largest id: a server refuses ids that its model does not have."""
    rng = random.Random("ids-probe|trace")
    ids = [settings.ids.high, *rng.choices(range(settings.ids.low, settings.ids.high + 1), k=15)]
    try:
        await usage_of(server, "/v1/completions", model, {"prompt": ids} | settings.body)
    except ToolError as error:
        raise ToolError(f"{error}; is the vocabulary smaller? see --token-ids LO-HI") from error
