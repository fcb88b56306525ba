"""The contract of domains: they read answers or abstain, never raise, and agree with themselves.

Their normal form agrees with their equivalence. By contract, `equivalent` may be slow or hang and
is called in processes that can be killed; here it is called only on the given examples.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from orchestrator.core.protocols import Domain, runs_in_process
from orchestrator.testing.rules import check_value, no_global_randomness, require

_RUBBISH = (
    "", " ", "\n\n", "\x00", "🙂", "\u202e42", "\ufeff", "\\", "\\boxed", "\\boxed{", "\\boxed{}",
    "\\boxed{{}", "}{", "$$", "$", "[", "{", '{"', '"', "(((", "-", ".", ",", "%", "=", "==", "/",
    "1/0", "\\frac{1}{0}", "\\frac{}{}", "1e999999", "nan", "inf", "-inf", "9" * 500, "½", "²", "٣",
    "The answer is", "The answer is ", "The answer is .", "The answer is \\boxed{", "####", "#### ",
    "answer: \n\n", "<think>", "</think>", "null", "None", "a" * 3000,
    "The answer is " + "x" * 3000, "\\boxed{" * 50, "{" * 500, "[" * 500, "lone surrogate \ud800",
)  # fmt: skip
_UNFINISHED = (
    "Let me think about this step by step. First we",
    "So there are 12 apples and 5 pears, which makes 17 fruits in total, and then",
    "I considered (A) and (B), but",
    "The result must be somewhere between 3 and",
    "<think>\nThe answer might be 42, or A, but wait",
)
_REPEATED = (
    " ", "\n", "a", "1", "1,", "1.", "-", "=", "$", "$$", "(", "[", "{", "}", '"', "\\", "\\(",
    "\\[", "\\boxed{", "\\boxed{1} ", "\\frac{1}{", "\\text{", "<think>", "</think>", "####",
    "#### 1\n", "answer ", "The answer is ", "the answer is 1 ", "Answer: A\n", "final answer\n",
    "1/", "1 2 ", "a b ", '{"a": ', "* ", "not ",
)  # fmt: skip
# small steps at first: exponential time is detected before it hangs
_SIZES = (16, 20, 24, 28, 32, *(2**k for k in range(6, 15)))
# for 16,384 characters: linear code takes hundredths of a second, quadratic code several seconds
_CPU_SECONDS = 0.5


def check_domain(
    domain: Domain,
    *,
    stated: Sequence[tuple[str, str]] = (),
    equal: Sequence[tuple[str, str]] = (),
    different: Sequence[tuple[str, str]] = (),
) -> None:
    """Check the contract of a domain.

    `stated` are texts, each with the answer that it gives explicitly; `equal` and `different` are
    pairs of answers.
    """
    check_value(domain)
    require(
        isinstance(getattr(domain, "in_process", False), bool),
        "in_process",
        "declare in a ClassVar[bool] whether it may run in the caller's process",
    )
    with no_global_randomness():
        _check_extraction(domain, stated)
        answers = dict.fromkeys(
            [*(answer for _, answer in stated), *(a for pair in (*equal, *different) for a in pair)]
        )
        _check_canonical(domain, [*answers, *_RUBBISH])
        _check_equivalence(domain, list(answers))
        if hasattr(domain, "resolve"):
            _check_resolution(domain, list(answers))
        for a, b in equal:
            require(domain.equivalent(a, b), "equal examples", f"{a!r} and {b!r} are told apart")
        for a, b in different:
            require(
                not domain.equivalent(a, b),
                "different examples",
                f"{a!r} and {b!r} are called equivalent",
            )
        _check_references(domain, stated, list(answers))
        if runs_in_process(domain):
            _check_time(domain)


def _extracted(domain: Domain, text: str, finished: bool) -> str | None:
    try:
        extracted: object = domain.extract(text, finished)
    except Exception as error:
        raise AssertionError(
            f"extract raises nothing: {error!r} for {text!r:.100}; return None to abstain"
        ) from error
    if extracted is None:
        return None
    if not isinstance(extracted, str) or not extracted:
        raise AssertionError(
            f"extract: {extracted!r} from {text!r:.100}; "
            "return the answer as text, or None, never an empty text"
        )
    require(
        _canonical(domain, extracted) != "",
        "extract",
        f"{extracted!r:.100} from {text!r:.100} has an empty form; abstain from empty answers",
    )
    return extracted


def _check_extraction(domain: Domain, stated: Iterable[tuple[str, str]]) -> None:
    for text in (*_RUBBISH, *_UNFINISHED):
        for finished in (True, False):
            _extracted(domain, text, finished)
    for text in _UNFINISHED:
        extracted = _extracted(domain, text, False)
        require(
            extracted is None,
            "a truncated text abstains",
            f"{extracted!r} was read from {text!r}; unless stated explicitly, it is a guess",
        )
    for text, answer in stated:
        for finished in (True, False):
            extracted = _extracted(domain, text, finished)
            require(
                extracted is not None
                and (extracted == answer or domain.equivalent(extracted, answer)),
                "stated answers are read",
                f"{extracted!r} instead of {answer!r} from {text!r}, finished = {finished}",
            )


def _canonical(domain: Domain, answer: str) -> str:
    try:
        form: object = domain.canonical(answer)
    except Exception as error:
        raise AssertionError(
            f"canonical raises nothing: {error!r} for {answer!r:.100}; "
            "return unreadable answers unchanged"
        ) from error
    if isinstance(form, str):
        return form
    raise AssertionError(f"canonical: {form!r} for {answer!r:.100}; return a text")


def _check_canonical(domain: Domain, answers: Iterable[str]) -> None:
    for answer in answers:
        form = _canonical(domain, answer)
        require(
            form == _canonical(domain, answer),
            "canonical is deterministic",
            f"two forms of {answer!r:.100}",
        )
        again = {_canonical(domain, form), _canonical(domain, form.removeprefix("="))}
        require(
            form in again,
            "canonical is idempotent",
            f"the form {form!r:.100} of {answer!r:.100} has the form {sorted(again)!r:.200}; "
            "a form is its own form, without its = too",
        )


def _check_equivalence(domain: Domain, answers: Sequence[str]) -> None:
    for answer in answers:
        require(
            domain.equivalent(answer, answer),
            "equivalent is reflexive",
            f"{answer!r} does not equal itself",
        )
    equal: dict[str, set[str]] = {answer: {answer} for answer in answers}
    for a, b in combinations(answers, 2):
        same = domain.equivalent(a, b)
        if same:
            equal[a].add(b)
            equal[b].add(a)
        require(
            same == domain.equivalent(b, a),
            "equivalent is symmetric",
            f"{a!r} and {b!r} one way, not the other",
        )
        x, y = _canonical(domain, a), _canonical(domain, b)
        require(
            same or x != y,
            "equal forms are equivalent",
            f"{a!r} and {b!r} share the form {x!r} and are told apart",
        )
        complete = x.startswith("=") and y.startswith("=")
        require(
            not (same and complete) or x == y,
            "complete forms decide",
            f"{a!r} and {b!r} are equivalent, and have the complete forms {x!r} and {y!r}; "
            "begin a form with = only if it decides",
        )
    for a, b in combinations(answers, 2):
        require(
            b not in equal[a] or equal[a] == equal[b],
            "equivalent is transitive",
            f"{a!r} and {b!r} are equivalent, but not to the same answers: "
            f"{sorted(equal[a] ^ equal[b])!r:.200}",
        )


def _check_resolution(domain: Any, answers: Sequence[str]) -> None:
    """Check that the keys of classes agree with the normal forms and with `equivalent`."""
    keys = {}
    for answer in answers:
        key: object = domain.resolve(answer)
        form = _canonical(domain, answer)
        if not isinstance(key, str) or not key.startswith("="):
            raise AssertionError(f"resolve: {key!r} for {answer!r:.100}; return a text after =")
        require(
            key == form or not form.startswith("="),
            "resolve keeps complete forms",
            f"{answer!r:.100} has the complete form {form!r:.100} and the key {key!r:.100}",
        )
        require(
            key == domain.resolve(form),
            "resolve depends on the form alone",
            f"{answer!r:.100} and its form {form!r:.100} have different keys",
        )
        keys[answer] = key
    for a, b in combinations(answers, 2):
        require(
            domain.equivalent(a, b) == (keys[a] == keys[b]),
            "keys decide",
            f"{a!r} and {b!r} have the keys {keys[a]!r:.100} and {keys[b]!r:.100}, "
            "and `equivalent` says otherwise",
        )


def _check_references(
    domain: Domain, stated: Iterable[tuple[str, str]], answers: Iterable[str]
) -> None:
    """Check the optional methods `accepts`, `describe` and `read_reference`."""
    accepts = getattr(domain, "accepts", domain.equivalent)
    describe = getattr(domain, "describe", lambda answer: "")
    for answer in answers:
        require(
            accepts(answer, answer) is True,
            "an answer accepts itself",
            f"{answer!r} is not right by itself",
        )
        description = describe(answer)
        require(
            isinstance(description, str) and "\n" not in description,
            "describe",
            f"{description!r} for {answer!r}; return one line of text",
        )
    read = getattr(domain, "read_reference", None)
    if read is None:
        return
    for text in (*_RUBBISH, *_UNFINISHED):
        value = read(text)
        require(
            value is None or (isinstance(value, str) and value.strip() != ""),
            "read_reference",
            f"{value!r} from {text!r:.100}; return the answer as text, or None",
        )
    for text, answer in [*stated, *((answer, answer) for answer in answers)]:
        value = read(text)
        # an answer of the examples may be none that the domain reads
        is_right = text == answer if value is None else domain.equivalent(value, answer)
        require(is_right, "references are read", f"{value!r}, not {answer!r}, from {text!r}")


def _check_time(domain: Domain) -> None:
    """Double the length of texts that are hard to parse, until one takes too long."""
    for piece in _REPEATED:
        for size in _SIZES:
            text = piece * (size // len(piece))
            spent = _spent(domain, text)
            if spent >= _CPU_SECONDS:  # the process may have collected garbage meanwhile
                spent = min(spent, _spent(domain, text), _spent(domain, text))
            require(
                spent < _CPU_SECONDS,
                "linear time in process",
                f"{spent:.2f} s for {size} characters of {piece!r}; "
                "make it linear, or declare in_process = False",
            )


def _spent(domain: Domain, text: str) -> float:
    """Return the processor seconds of reading the text, alone and in a statement."""
    read_reference = getattr(domain, "read_reference", str)
    began = time.process_time()
    for subject in (text, f"The answer is {text} 7"):
        _extracted(domain, subject, True)
        _canonical(domain, subject)
        read_reference(subject)
    return time.process_time() - began
