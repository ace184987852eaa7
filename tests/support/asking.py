"""What a runtime is given to ask a person with."""

from codex_bridge.runtime import ApprovalAnswer, ApprovalRequest


async def never_asked(request: ApprovalRequest) -> ApprovalAnswer:
    """Take no question: nothing here asks any."""
    raise AssertionError(f"asked: {request}")
