"""Rounds in the files of other tools, so that what reads those goes on working.

What they define otherwise is written by their definition and not by ours: docs/peers.md says
where they differ.
"""
