"""kvsim: imitates vLLM and a Mooncake store, for the demo, the tests and client calibration.

Everything made with it says so: ``owned_by: kvsim``, ``server: kvsim``, ``kvsim_info``.
"""
