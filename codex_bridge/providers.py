"""The table of providers: what each kind of OpenAI-compatible endpoint is."""

from __future__ import annotations

from enum import StrEnum

from .values import value


class AuthMode(StrEnum):
    CHATGPT = "chatgpt"
    API_KEY = "api_key"
    NONE = "none"


class WireApi(StrEnum):
    """An API of OpenAI's that a model server may have."""

    RESPONSES = "responses"
    CHAT_COMPLETIONS = "chat_completions"


@value
class Provider:
    """`auth_modes` are in order of preference; `base_url` is None where the operator must name it.

    `speaks` says which of OpenAI's APIs it is known for; Codex itself speaks `responses`, which is translated for others.
    """

    label: str
    base_url: str | None
    auth_modes: tuple[AuthMode, ...]
    speaks: tuple[str, ...]


_BOTH = tuple(WireApi)
_CHAT = (WireApi.CHAT_COMPLETIONS,)
# In recommended order.
PROVIDERS = {
    "openai": Provider("OpenAI", "https://api.openai.com/v1", (AuthMode.CHATGPT, AuthMode.API_KEY), _BOTH),
    "osirus": Provider("Osirus AI", None, (AuthMode.NONE, AuthMode.API_KEY), _CHAT),
    "osirus_agent": Provider("Osirus AI agent", None, (AuthMode.API_KEY,), _CHAT),
    "ollama": Provider("Ollama", "http://127.0.0.1:11434/v1", (AuthMode.NONE,), _BOTH),
    "vllm": Provider("vLLM", None, (AuthMode.API_KEY, AuthMode.NONE), _BOTH),
    "openai_compatible": Provider("OpenAI-compatible", None, (AuthMode.API_KEY, AuthMode.NONE), _CHAT),
}
