"""OpenAI batches by the command line: what rows set, what comes back, and what is kept of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import leadline
from orchestrator.jobs.finished import read_finished

Run = Callable[..., Result]
PLAN = """
problems = "batch.jsonl"
domain = "number"
strategy = {{ name = "consistency", n = 4 }}
[models.main]
path = "smollm2"
[models.poet]
path = "served-poet"
[execution]
engine = {{ name = "fake", n_tokens = 3 }}
[batch]
override = {override}
"""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in a directory of its own, in this process."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(leadline, list(arguments))


def write(override: bool, **bodies: dict[str, Any]) -> None:
    """Write the plan and a batch; a body with a prompt is one for /v1/completions."""
    Path("plan.toml").write_text(PLAN.format(override=str(override).lower()))
    lines = []
    for name, body in bodies.items():
        url = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
        chat = {} if "prompt" in body else {"messages": [{"role": "user", "content": f"{name}?"}]}
        body = {"model": "gpt", **chat, **body}
        lines.append(json.dumps({"custom_id": name, "method": "POST", "url": url, "body": body}))
    Path("batch.jsonl").write_text("\n".join(lines) + "\n")


def output() -> dict[str, dict[str, Any]]:
    lines = Path("runs/plan/batch_output.jsonl").read_text().splitlines()
    return {line["custom_id"]: line for line in map(json.loads, lines)}


def body(name: str) -> dict[str, Any]:
    return output()[name]["response"]["body"]  # type: ignore[no-any-return]  # plain JSON


def test_log_probabilities_come_back_in_the_form_of_each_api_and_only_where_requested(
    cli: Run,
) -> None:
    write(
        True,
        chat={"logprobs": True, "top_logprobs": 2, "n": 2},
        old={"prompt": "2 + 2 =", "logprobs": 1},
        sampled={"prompt": "2 + 3 =", "logprobs": 0},
        plain={},
    )
    done = cli("run", "plan.toml")
    assert done.exit_code == 0, done.output
    choices = body("chat")["choices"]
    assert len(choices) == 2
    for choice in choices:
        content = choice["logprobs"]["content"]
        assert "".join(token["token"] for token in content) == choice["message"]["content"]
        for token in content:
            assert token["bytes"] == list(token["token"].encode())
            assert token["top_logprobs"][0] == {k: token[k] for k in ("token", "logprob", "bytes")}
            assert len(token["top_logprobs"]) == 2
            assert token["top_logprobs"][1]["logprob"] < token["logprob"] < 0
    assert choices[0]["logprobs"] != choices[1]["logprobs"]
    old = body("old")
    [choice] = old["choices"]
    assert (old["object"], old["id"][:5]) == ("text_completion", "cmpl-")
    assert "message" not in choice
    logprobs = choice["logprobs"]
    offsets = [0, len(logprobs["tokens"][0]), len(logprobs["tokens"][0] + logprobs["tokens"][1])]
    assert logprobs["text_offset"] == offsets
    assert [[*top.items()] for top in logprobs["top_logprobs"]] == [
        [pair] for pair in zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True)
    ]
    assert body("sampled")["choices"][0]["logprobs"]["top_logprobs"] is None
    assert body("plain")["choices"][0]["logprobs"] is None
    pools = read_finished(Path("runs/plan")).pools
    kept = {id: [len(trace.logprobs) for trace in pool] for id, pool in pools.items()}
    assert kept == {"chat": [3, 3], "old": [3] * 4, "sampled": [3] * 4, "plain": [0] * 4}


def test_a_row_chooses_a_model_of_the_plan_by_its_name_or_path(cli: Run) -> None:
    write(True, named={"model": "poet"}, served={"model": "served-poet"}, other={"model": "gpt"})
    done = cli("run", "plan.toml")
    assert done.exit_code == 0, done.output
    pools = read_finished(Path("runs/plan")).pools
    assert {id: {trace.model for trace in pool} for id, pool in pools.items()} == {
        "named": {"poet"},
        "served": {"poet"},
        "other": {"main"},
    }
    models = {name: body(name)["model"] for name in pools}
    assert models == {"named": "served-poet", "served": "served-poet", "other": "smollm2"}
    assert "model in up to 1 rows have no effect" in " ".join(done.stderr.split())


REFUSED: Mapping[str, dict[str, Any]] = {
    "response_format": {"response_format": {"type": "json_object"}},
    "guided_choice": {"extra_body": {"guided_choice": ["a"]}},
    "stop": {"stop": "."},
    "logprobs": {"prompt": "?", "logprobs": 0},
    "model": {"model": "poet"},
    "tools": {"tools": [{"type": "function"}]},
}


def test_a_plan_that_rows_may_not_override_decides_or_refuses_the_row(cli: Run) -> None:
    """What only draws other attempts is left out; without what constrains the output, it would not
    be what was requested. Whoever reads the job reads its rows the same way.
    """
    drawing = {"temperature": 0.1, "max_tokens": 1, "seed": 5, "presence_penalty": 1, "n": 2}
    write(False, free=drawing, harmless={"logprobs": False, "stop": None}, **REFUSED)
    done = cli("run", "plan.toml")
    assert done.exit_code == 0, done.output
    said = " ".join(done.stderr.split())
    assert "max_tokens, model, n, presence_penalty, seed, temperature in up to" in said
    lines = output()
    for name in REFUSED:
        assert f"sets {name!r}" in lines[name]["error"]["message"], lines[name]
    job = read_finished(Path("runs/plan"))
    assert {id: len(pool) for id, pool in job.pools.items()} == {"free": 4, "harmless": 4}
    assert {trace.usage.output_tokens for trace in job.pools["free"]} == {3}
    file = job.problem_file()
    assert file is not None
    assert [result.problem_id for result in file.invalid] == list(REFUSED)
    question = job.question("free")
    assert question is not None
    assert question.prompt != ""  # type: ignore[union-attr]  # the row is the one that was run
    before = Path("runs/plan/results.jsonl").read_text()
    again = cli("resume", "runs/plan")
    assert again.exit_code == 0, again.output
    assert Path("runs/plan/results.jsonl").read_text() == before
    copied = cli("run", "runs/plan/plan.toml")  # its plan file forbids it, too
    assert copied.exit_code == 0, copied.output
    assert Path("runs/plan/results.jsonl").read_text() == before
