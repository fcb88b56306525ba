"""The prompt of a problem: its question in the plan's template, after examples and instructions."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.plan import Example, Plan
from orchestrator.core.values import Media, Message, Problem, Prompt, changed


def prepared_prompt(problem: Problem, plan: Plan) -> Prompt:
    """Return the problem's prompt in the plan's template, after its examples and system message.

    A problem's own system message takes precedence.
    """
    system = plan.sampling.system
    prompt = _in_template(problem.prompt, plan)
    if problem.media and isinstance(prompt, str):
        prompt = (Message("user", prompt, problem.media),)
    if examples := plan.few_shot.chosen(problem, plan.seed) if plan.few_shot.examples else []:
        prompt = (_after_text if plan.few_shot.template else _after_turns)(prompt, examples, plan)
    if not system:
        return prompt
    if isinstance(prompt, str):
        return (Message("system", system), Message("user", prompt))
    own = any(m.role == "system" for m in prompt)
    return prompt if own else (Message("system", system), *prompt)


def _in_template(prompt: Prompt, plan: Plan) -> Prompt:
    template = plan.sampling.template
    return template.replace("{prompt}", prompt) if isinstance(prompt, str) else prompt


def _after_turns(prompt: Prompt, examples: Sequence[Example], plan: Plan) -> Prompt:
    """Return a conversation in which examples are answered before the prompt."""
    turns: list[Message] = []
    for example in examples:
        turns += _messages(_in_template(example.prompt, plan))
        reply = example.reply
        turns.append(Message("assistant", reply) if isinstance(reply, str) else reply)
    turns, own = [m for m in turns if m.role != "system"], _messages(prompt)
    first = next((i for i, m in enumerate(own) if m.role != "system"), len(own))
    return (*own[:first], *turns, *own[first:])


def _after_text(prompt: Prompt, examples: Sequence[Example], plan: Plan) -> Prompt:
    """Return the prompt, or the last message of a conversation, as the end of a text of examples.

    It ends where the template has the answer.
    """
    before, _, behind = plan.few_shot.template.partition("{answer}")
    own, n_before = _messages(prompt), before.index("{prompt}")
    turns = [
        (_messages(_in_template(example.prompt, plan))[-1], before, f"{example.reply}{behind}")
        for example in examples
    ]
    text, media = "", list[Media]()
    for question, frame, reply in (*turns, (own[-1], before.rstrip(), "")):
        media += [changed(one, at=len(text) + n_before + one.at) for one in question.media]
        text += frame.replace("{prompt}", question.content) + reply
    if isinstance(prompt, str) and not media:
        return text
    return (*own[:-1], changed(own[-1], content=text, media=tuple(media)))


def _messages(prompt: Prompt) -> tuple[Message, ...]:
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt
