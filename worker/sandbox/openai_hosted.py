"""How the sandbox's OpenAI tells of what a model did beside its answer: reasoning, web searches, code in a container.

It reads no requests and makes no answers up.
"""

from typing import Any

from worker.sandbox.deeds import found
from worker.sandbox.replies import Reply


def items(reply: Reply) -> list[dict[str, Any]]:
    """The items of a response that come before its message."""
    told: list[dict[str, Any]] = []
    if reply.usage.reasoning:
        summary = [{"type": "summary_text", "text": reply.thought}] if reply.thought else []
        told.append({"id": f"rs_{reply.digest}", "type": "reasoning", "summary": summary})
    for number, query in enumerate(reply.queries):
        action = {"type": "search", "query": query, "queries": [query]}
        told.append(
            {"id": f"ws_{reply.digest}{number}", "type": "web_search_call", "status": "completed", "action": action}
        )
    if reply.code:
        told.append(
            {
                "id": f"ci_{reply.digest}",
                "type": "code_interpreter_call",
                "status": "completed",
                "code": reply.code[0],
                "container_id": f"cntr_{reply.digest}",
                "outputs": [{"type": "logs", "logs": reply.code[1]}],
            }
        )
    return told


def citations(reply: Reply) -> list[dict[str, Any]]:
    """Where a text says what a search found."""
    return [
        {
            "type": "url_citation",
            "start_index": 0,
            "end_index": len(reply.text),
            "url": found(query).url,
            "title": found(query).title,
        }
        for query in reply.queries
    ]
