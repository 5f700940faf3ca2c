"""What a workload could gain from a cache, computed before anything is sent.

Pure: requests as chains of links come in, an `analysis` record goes out. Time is O(n log n) in the
links of all requests, memory O(n): it is the distinct blocks and not the text that are kept.
"""
