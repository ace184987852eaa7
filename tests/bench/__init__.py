"""The benchmark: `python -m tests.bench` prints every figure, each beside a comparison made in the same run.

It owns the processes it starts (the bridge, node, Codex, the scripted upstream, the load generator) and ends
them all. It never imports the bridge: what is measured is what a host sees through sockets and `/proc`. Only the store is measured
by itself, by a program of its own (`store.py`).
"""
