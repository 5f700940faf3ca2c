"""The whole procedure, from meeting the engines to the last probe."""

from __future__ import annotations

from contextlib import AsyncExitStack

from kvclear import verdict
from kvclear.account import Account
from kvclear.clearing import act
from kvclear.looking import look, probe_nodes
from kvclear.nodes import Node
from kvclear.order import Order
from kvclear.preparation import prepare
from kvclear.rehearsal import announce
from kvclear.site import Site, open_site


async def clear(order: Order, account: Account) -> Site:
    """Do all of it. ToolError if an engine cannot be reached or asked at the start."""
    async with AsyncExitStack() as stack:
        site = await open_site(order, account, stack)
        several = [node for node in site.nodes if node.several]
        if several:
            # A clear through a router empties one replica and proves nothing about the others.
            _report_several(site, several)
        elif order.dry_run:
            await announce(site)
        else:
            await prepare(site)
            await act(site)
            await look(site)
            await probe_nodes(site)
        return site


def _report_several(site: Site, several: list[Node]) -> None:
    for node in several:
        trouble = f"several servers answer behind this URL: {node.several}; name each by its own"
        site.account.proof(
            verdict.node_proof(
                verdict.NodeEvidence(
                    where=node.shown,
                    allowed_tokens=node.allowed_tokens,
                    control_tokens=None,
                    probe=None,
                    trouble=trouble,
                )
            )
        )
