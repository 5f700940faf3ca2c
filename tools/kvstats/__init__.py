"""kvstats: records of kvload in, one `round_stats` a round out.

The only place where metrics are defined (`metrics.py`) and where one round is judged by what its
own records show. It compares no rounds: that is kvreport's.
"""
