"""Codex Bridge: a sidecar daemon that puts OpenAI's Codex behind a small REST and SSE surface."""

__version__ = "0.1.0"
