"""What flows through the pipes, and how a process behaves at the end of one.

Admission rule: at least two tools need it, and it is about records, JSON lines or process manners.
"""
