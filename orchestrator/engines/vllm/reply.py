"""Converts vLLM's last output for a request to a trace: its text, thinking, cost and metrics.

Also computes the log-probability of given tokens (the metric `prefix_logprob`). For this vLLM reads
the whole prompt without its prefix cache, which stores no log-probabilities. Does not import vllm:
it receives vLLM's objects.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.core.metrics import PREFIX, prefix_value
from orchestrator.core.values import Finish, Request, Spans, Trace, Usage, changed
from orchestrator.engines.reply import tokens_between, trace_for, without_stop
from orchestrator.engines.vllm.depth import Computation
from orchestrator.engines.vllm.prompts import EngineInput, Prompts, Refused
from orchestrator.engines.vllm.watch import TokenWatch
from orchestrator.kit.answers.tags import OPEN
from orchestrator.kit.answers.thinking import Split, clipped, refined, shifted, split

_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH, "abort": Finish.CANCELLED}


def completed(
    request: Request,
    data: EngineInput,
    output: Any,
    watch: TokenWatch | None,
    computation: Computation,
    seconds: float,
    prompts: Prompts,
) -> Trace:
    """Return the trace of vLLM's last output for a request.

    `prompts` decodes tokens.
    """
    text_of = prompts.text_of
    last = output.outputs[0]
    text, ids = last.text, tuple(last.token_ids)
    finish = _FINISHES.get(last.finish_reason, Finish.FAILED)
    if watch is not None and watch.text is not None:
        text, ids = watch.text, watch.ids
        finish = Finish.RULE if watch.fired else finish
    if data.ends_by_rule and finish is Finish.LENGTH:
        finish = Finish.RULE
    n_prompt, n_cached = len(data.prompt_ids), output.num_cached_tokens or 0
    # A request cancelled before its first token is charged its whole prompt: an upper bound.
    n_layer_tokens = round((n_prompt - n_cached + len(ids)) * computation.n_layers)
    # vLLM removes the final stop string only from the text. None at the end of the sequence, a
    # number for a stop token.
    stop = last.stop_reason if isinstance(last.stop_reason, str) and finish is Finish.STOP else ""
    logprobs = inherited_logprobs(request, output.prompt_logprobs, len(data.suffix_ids))
    metrics = {**computation.metrics, **prefix_value(request.metrics, logprobs)}
    if watch is not None:
        metrics |= watch.metrics(request.metrics, output, len(ids), lambda id: text_of((id,)))
    failed = finish is Finish.FAILED
    own_ids = without_stop(ids, stop, text_of) if stop else ids
    return trace_for(
        request,
        finish,
        text=text,
        stop=stop,
        token_ids=own_ids,
        logprobs=() if watch is None else watch.logprobs(output, len(own_ids), prompts.likely),
        usage=Usage(
            n_prompt,
            n_cached,
            len(ids),
            n_layer_tokens,
            seconds,
            draft_layer_tokens=computation.draft_layer_tokens,
        ),
        metrics=metrics,
        suffix_ids=data.suffix_ids,
        depths=computation.depths[: len(own_ids)],
        error=f"vLLM ended the request with {last.finish_reason!r}" if failed else "",
    )


@dataclass(frozen=True, slots=True)
class ReplyParser:
    """One of vLLM's reasoning parsers.

    `parse` returns the thinking and the reply in a text that has the given tokens, each None where
    there is none. A parser that was `guessed` from the model's family is used only on attempts with
    a tag: most parsers take any text without one for thinking, which it is not where the model has
    a mode without thinking.
    """

    name: str
    parse: Callable[[str, Sequence[int]], tuple[str | None, str | None]]
    guessed: bool

    def split(self, text: str, ids: Sequence[int]) -> Split | None:
        """Return the split of an attempt's text; None where the parser does not apply to it.

        That is also where what it returns is not literally in the text.
        """
        by_tags = split(text)
        if self.guessed and not by_tags.thinking:
            return None
        thinking, reply = self.parse(text, ids)
        a, b = text.find(thinking or ""), text.rfind(reply or "")
        if a < 0 or b < 0 or (reply and thinking and b < a + len(thinking)):
            return None
        if by_tags.thinking and a < by_tags.thinking[0][0] and thinking:
            thinking = thinking[by_tags.thinking[0][0] - a :]  # some leave the tag in it
            a = by_tags.thinking[0][0]
        spans = ((a, a + len(thinking)),) if thinking else ()
        return refined(text, spans, ((b, b + len(reply)),) if reply else ())


def with_thinking(
    trace: Trace, request: Request, data: EngineInput, prompts: Prompts, parser: ReplyParser | None
) -> Trace:
    """Return a trace with its thinking apart from its reply, and the number of its thinking tokens.

    Where the prompt opened the thinking, the text begins with that tag, so that the text alone
    tells thinking from reply.
    """
    if not trace.text:
        return trace
    tag, closes = _prompt_end(request, data, prompts)
    inherited = request.prefix_text if request.parent is not None else tag
    before = f"{inherited}{request.suffix}"
    # where nothing else precedes it, the tag is part of the trace's own text
    before, tag = ("", tag) if before in ("", tag) else (before, "")
    text = f"{tag}{trace.text}"
    ids = (*request.prefix_ids, *data.suffix_ids, *trace.token_ids)
    parts, note = None, trace.note
    try:
        parts = None if parser is None or closes else parser.split(before + text, ids)
    except Exception as error:  # noqa: BLE001 - a parser may raise anything on an odd text
        note = f"reasoning parser: {error!r}; thinking was found by its tags"
    if parts is not None and not before and not tag and _lacks_tag(parts):
        tag, parts = OPEN, _behind(OPEN, parts)
        text = parts.text
    parts = parts or split(before + text, trace.finish is Finish.STOP)
    if parts.is_plain:
        return changed(trace, note=note)
    thinking = clipped(parts.thinking, len(before))
    return changed(
        trace,
        text=text,
        thinking_spans=thinking,
        reply_spans=clipped(parts.reply, len(before)),
        usage=changed(trace.usage, reasoning_tokens=_n_tokens(trace, thinking, len(tag), prompts)),
        note=note,
    )


def tag_before(request: Request, data: EngineInput, prompts: Prompts) -> str:
    """Return the tag that `with_thinking` puts before a request's own text, or ""."""
    if request.parent is not None or request.suffix:
        return ""
    return _prompt_end(request, data, prompts)[0]


def _prompt_end(request: Request, data: EngineInput, prompts: Prompts) -> tuple[str, bool]:
    """Return the tag with which the prompt opens the thinking, and whether it closes it."""
    n_after = len(request.prefix_ids) + len(data.suffix_ids)
    return prompts.thinking(data.prompt_ids[: len(data.prompt_ids) - n_after])


def _lacks_tag(parts: Split) -> bool:
    """Tell whether a parser has found thinking that tags alone would not show."""
    return bool(parts.thinking) and not split(parts.text).thinking


def _behind(tag: str, parts: Split) -> Split:
    n = len(tag)
    return Split(tag + parts.text, shifted(parts.thinking, n), shifted(parts.reply, n))


def _n_tokens(trace: Trace, thinking: Spans, n_added: int, prompts: Prompts) -> int:
    """Return the number of the trace's tokens from the first to the last of its thinking."""
    if not thinking:
        return 0
    ids = trace.token_ids
    if ids and not trace.text.endswith(prompts.printed(ids[-1:])):
        ids = ids[:-1]  # the end of the sequence
    span = (max(0, thinking[0][0] - n_added), thinking[-1][1] - n_added)
    return tokens_between(ids, len(trace.text), span, prompts.printed)


def with_prompt_logprobs(template: Any, request: Request) -> Any:
    """Return a copy of the parameters, with prompt log-probabilities if metrics need them.

    Refused together with stop rules.
    """
    params = copy.copy(template)
    if PREFIX in request.metrics:
        if request.rules:
            raise Refused(
                f"{PREFIX} cannot be computed together with stop rules: request it separately"
            )
        params.prompt_logprobs = 0  # of the tokens themselves, without alternatives
        params.skip_reading_prefix_cache = True
    return params


def inherited_logprobs(request: Request, prompt_logprobs: Any, n_suffix: int) -> Sequence[float]:
    """Return the log-probability of each token that the request inherits; () if there are none.

    vLLM's list for the whole prompt has first the prompt's own tokens, then the inherited ones,
    then `n_suffix` of the suffix. The first token of all has none: where the prompt has no tokens,
    the first inherited one is left out.
    """
    n_inherited = len(request.prefix_ids)
    if not prompt_logprobs or not n_inherited:
        return ()
    end = len(prompt_logprobs) - n_suffix
    inherited = slice(end - n_inherited, end)
    starts, ends = prompt_logprobs.start_indices[inherited], prompt_logprobs.end_indices[inherited]
    # the token itself comes first
    return [prompt_logprobs.logprobs[i] for i, j in zip(starts, ends, strict=True) if i < j]
