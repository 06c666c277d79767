"""How the sandbox's Gemini words an answer: its parts, its grounding, its usage.

It reads no requests and makes no answers up.
"""

from typing import Any

from worker.sandbox.deeds import found, signature
from worker.sandbox.dialect import pieces
from worker.sandbox.replies import Finish, Reply, Usage

FINISH: dict[Finish, str] = {"stop": "STOP", "length": "MAX_TOKENS", "filter": "SAFETY"}


def parts(reply: Reply) -> list[dict[str, Any]]:
    """The parts of an answer, in order."""
    told: list[dict[str, Any]] = [{"text": reply.thought, "thought": True}] if reply.thought else []
    if reply.call:
        call = {"id": f"fc-{reply.digest}", "name": reply.call[0], "args": reply.call[1]}
        return [*told, {"functionCall": call, "thoughtSignature": signature(reply)}]
    if reply.code:
        told.append({"executableCode": {"language": "PYTHON", "code": reply.code[0]}})
        told.append({"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": reply.code[1]}})
    return [*told, {"text": reply.text}]


def streamed(reply: Reply) -> list[list[dict[str, Any]]]:
    """The parts of an answer as a stream hands them out; the text comes last, in pieces."""
    *before, last = parts(reply)
    if "text" not in last:
        return [[one] for one in (*before, last)]
    return [*([one] for one in before), *([{"text": piece}] for piece in pieces(reply.text))]


def grounding(reply: Reply) -> dict[str, Any]:
    """What a candidate tells of its searches; nothing without one."""
    if not reply.queries:
        return {}
    sources = [found(query) for query in reply.queries]
    segment = {"startIndex": 0, "endIndex": len(reply.text), "text": reply.text}
    told = {
        "webSearchQueries": list(reply.queries),
        "searchEntryPoint": {"renderedContent": "<div></div>"},
        "groundingChunks": [{"web": {"uri": source.url, "title": source.title}} for source in sources],
        "groundingSupports": [{"segment": segment, "groundingChunkIndices": list(range(len(sources)))}],
    }
    return {"groundingMetadata": told}


def usage(given: Usage, last: bool) -> dict[str, object]:
    """The usage block; thoughts are apart from candidates, what tools gave is apart from the prompt, and zeros are left out."""
    said = given.output - given.reasoning if last else 0
    thoughts = given.reasoning if last else 0
    prompt = given.input - given.tool
    block: dict[str, object] = {
        "promptTokenCount": prompt,
        "cachedContentTokenCount": given.cached,
        "candidatesTokenCount": said,
        "thoughtsTokenCount": thoughts,
        "toolUsePromptTokenCount": given.tool,
        "totalTokenCount": given.input + said + thoughts,
    }
    block = {name: count for name, count in block.items() if count}
    if given.tool:
        block["toolUsePromptTokensDetails"] = [{"modality": "TEXT", "tokenCount": given.tool}]
    media = dict(given.media)
    modalities = {"TEXT": prompt - sum(media.values()), **media}
    return block | {
        "promptTokensDetails": [{"modality": name, "tokenCount": count} for name, count in modalities.items()]
    }
