"""Real processes and real sockets that stand where a test needs a peer it can script.

Nothing here replaces a part of the bridge: the upstream is an HTTP server, the fake Codex is an
executable, the clients use sockets. Nothing here sleeps to let something happen: every wait is for an
event and has a bound.
"""
