"""Whether what was published follows from its records, worked out anew from the records alone.

Nothing here is kvstats' code: tokens, trees and times are derived a second time, from the plan and
the requests, and held against what round stats and report say. What cannot be told from the files
that are there is said to be unknown; it is no disagreement.
"""
