"""What can be a token's id, wherever one comes from: 32 bits hold every vocabulary there is."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

TokenId = Annotated[int, Meta(ge=0, le=2**32 - 1)]
