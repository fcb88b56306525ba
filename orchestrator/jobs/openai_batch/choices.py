"""An attempt and a cost as the protocol has them: a choice with its message, and the usage.

The one rule: a batch's output and a served reply are made of the same choices.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeAlias

from orchestrator.core.values import Finish, LikelyToken, Result, TokenLogprob, Trace, Usage
from orchestrator.kit.answers.thinking import parts_of, split
from orchestrator.kit.prompts import chat_calls

JSON: TypeAlias = dict[str, object]


def choice_of(attempt: Trace, is_chat: bool) -> JSON:
    """Return an attempt as a choice without its index: a message, or a text where not a chat."""
    message = _message(attempt)
    logprobs = attempt.logprobs
    reason = {"finish_reason": _finish_reason(attempt)}
    if is_chat:
        content = [_scored(t) | {"top_logprobs": list(map(_scored, t.top))} for t in logprobs]
        logged = {"content": content, "refusal": None} if logprobs else None
        return {"message": message, "logprobs": logged, **reason}
    text = {"text": message.pop("content")}
    thinking = {k: v for k, v in message.items() if k == "reasoning_content"}
    return {**text, **thinking, "logprobs": _old_logprobs(logprobs) if logprobs else None, **reason}


def _scored(token: TokenLogprob | LikelyToken) -> JSON:
    own = list(token.token.encode()) if token.bytes is None else token.bytes
    return {"token": token.token, "logprob": token.logprob, "bytes": own}


def _old_logprobs(logprobs: Sequence[TokenLogprob]) -> JSON:
    """Return log-probabilities in the form of /v1/completions, where the token itself counts."""
    ends = itertools.accumulate(len(one.token) for one in logprobs)
    tops = [
        {**{t.token: t.logprob for t in one.top}, one.token: one.logprob} if one.top else None
        for one in logprobs
    ]
    return {
        "tokens": [one.token for one in logprobs],
        "token_logprobs": [one.logprob for one in logprobs],
        "top_logprobs": tops if any(tops) else None,
        "text_offset": [end - len(one.token) for end, one in zip(ends, logprobs, strict=True)],
    }


def _finish_reason(attempt: Trace) -> str:
    if attempt.finish is Finish.LENGTH:
        return "length"
    return "tool_calls" if attempt.calls else "stop"


def _message(attempt: Trace) -> JSON:
    parts = parts_of(attempt) if attempt.text else split("")
    calls = attempt.calls
    content = parts.reply_text.strip() if parts.thinking or calls else parts.text
    message: JSON = {"role": "assistant", "content": content, "refusal": None}
    if calls:
        message |= {"content": content or None, "tool_calls": chat_calls(calls)}
    return message | ({"reasoning_content": parts.thinking_text} if parts.thinking else {})


def usage_counts(result: Result) -> JSON:
    """Return everything that a problem has spent, under the names of the protocol."""
    total = sum(result.usage.values(), Usage())
    return {
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.output_tokens,
        "total_tokens": total.prompt_tokens + total.output_tokens,
        "prompt_tokens_details": {"cached_tokens": total.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": total.reasoning_tokens},
    }
