"""Engines as they are asked and understood from outside: probing, metrics text, versions, manners.

Admission rule: at least two tools need it, and it is about an inference engine or a KV store.
Nothing here measures: this is the control plane, and its connections are not the load's.
"""
