"""Handmade traces and pools of traces, for tests of strategies and selectors.

Everything is a function of its arguments. Nothing here decides or checks anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.core.values import Answer, Finish, Problem, Purpose, Trace, Usage, Verdict

PROBLEM = Problem("check", "What is 17 + 25?")


def trace(
    ordinal: int,
    answer: str | None = None,
    *,
    finish: Finish = Finish.STOP,
    tokens: int = 10,
    metrics: Mapping[str, float] | None = None,
    verdicts: Mapping[str, float] | None = None,
    purpose: Purpose = Purpose.SOLVE,
    parent: int | None = None,
    model: str = "main",
) -> Trace:
    """Return a trace that gives `answer` (None abstains) after `tokens` tokens.

    The answer's text and key are equal. `verdicts` maps a verifier's name to its score. A FAILED
    trace has an `error` and no answer.
    """
    failed = finish is Finish.FAILED
    return Trace(
        ordinal=ordinal,
        text="Let me see." if answer is None else f"The answer is {answer}.",
        token_ids=tuple(range(tokens)),
        finish=finish,
        parent=parent,
        purpose=purpose,
        model=model,
        usage=Usage(prompt_tokens=5, output_tokens=tokens, layer_tokens=5 + tokens),
        answer=None if answer is None or failed else Answer(answer, answer),
        metrics=dict(metrics or {}),
        verdicts=tuple(Verdict(name, score) for name, score in (verdicts or {}).items()),
        error="failed on purpose" if failed else "",
    )


def pool(
    words: str,
    *,
    metrics: Mapping[str, Sequence[float]] | None = None,
    verdicts: Mapping[str, Sequence[float]] | None = None,
    tokens: Sequence[int] = (),
) -> list[Trace]:
    """Return one trace per word, with ordinals from 0.

    A word is an answer, `-` a trace that abstains, `!` one that failed. `metrics`, `verdicts` and
    `tokens` have one value per trace: `pool("A B -", metrics={"mean_confidence": (3, 5, 1)})`.
    """
    return [
        trace(
            i,
            None if word in "-!" else word,
            finish=Finish.FAILED if word == "!" else Finish.STOP,
            tokens=tokens[i] if tokens else 10,
            metrics={name: values[i] for name, values in (metrics or {}).items()},
            verdicts={name: values[i] for name, values in (verdicts or {}).items()},
        )
        for i, word in enumerate(words.split())
    ]
