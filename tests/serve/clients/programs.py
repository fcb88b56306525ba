"""What users of other packages write to use a service: run as `programs.py NAME ADDRESS`.

It runs in the environment of `make clients`, and prints one JSON object. Leadline is imported only
by the programs that run strategies in process.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# the model's name in the service of the tests, which names a strategy too
NAME = os.environ.get("LEADLINE_CLIENT_MODEL", "small") + "+consistency?n=4"
QUESTION = "How many days has a week?"
ROWS = [{"question": f"{QUESTION} ({i})", "answer": "7"} for i in range(4)]
TASK = {
    "task": "days",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 64, "do_sample": False},
    "filter_list": [
        {
            "name": "last",
            "filter": [
                {"function": "regex", "regex_pattern": "([0-9]+)", "group_select": -1},
                {"function": "take_first"},
            ],
        }
    ],
    "metric_list": [{"metric": "exact_match"}],
}


def lm_eval(address: str) -> dict[str, Any]:
    """Evaluate a small local task through the harness's client of chats."""
    arguments = {
        "base_url": f"{address}/chat/completions",
        "model": NAME,
        "num_concurrent": 4,
        "max_retries": 1,
    }
    return _evaluated("local-chat-completions", arguments)


def lm_eval_in_process(plan: str) -> dict[str, Any]:
    """Evaluate the same task by a strategy in this process."""
    import orchestrator.serve.clients.lm_eval_model  # noqa: F401  # registers "leadline"

    return _evaluated("leadline", {"plan": plan, "model": NAME})


def _evaluated(model: str, arguments: dict[str, Any]) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        rows, task = Path(folder, "rows.jsonl"), Path(folder, "days.yaml")
        rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        files = {"dataset_kwargs": {"data_files": {"test": str(rows)}}}
        task.write_text(json.dumps(TASK | files))  # JSON is YAML
        found: Any = simple_evaluate(
            model,
            model_args=arguments,
            tasks=["days"],
            task_manager=TaskManager(include_path=folder, include_defaults=False),
            apply_chat_template=True,
            bootstrap_iters=0,
        )
    [sample, *_] = found["samples"]["days"]
    return {
        "n": len(found["samples"]["days"]),
        "right": found["results"]["days"]["exact_match,last"],
        "text": sample["resps"][0][0],
    }


def inspect_ai(address: str) -> dict[str, Any]:
    """Evaluate samples through the provider of OpenAI-compatible services."""
    os.environ |= {"OURS_BASE_URL": address, "OURS_API_KEY": "none"}
    return _inspected(f"openai-api/ours/{NAME}", {})


def inspect_ai_in_process(plan: str) -> dict[str, Any]:
    """Evaluate the same samples by a strategy in this process, found by its entry point."""
    return _inspected(f"leadline/{NAME}", {"plan": plan})


def _inspected(model: str, arguments: dict[str, Any]) -> dict[str, Any]:
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import includes

    samples = [Sample(input=row["question"], target=row["answer"]) for row in ROWS]
    task = Task(dataset=samples, scorer=includes())
    with tempfile.TemporaryDirectory() as folder:
        [log] = eval(
            task, model=model, model_args=arguments, log_dir=folder, display="none", max_tokens=64
        )
        assert log.status == "success", log.error
        assert log.samples
        assert log.results
        output = log.samples[0].output
        assert output.usage
        return {
            "n": len(log.samples),
            "right": log.results.scores[0].metrics["accuracy"].value,
            "text": output.completion,
            "tokens": output.usage.output_tokens,
            "metadata": output.metadata,
        }


def llm(address: str) -> dict[str, Any]:
    """Ask with the command of the package, streamed and not."""
    with tempfile.TemporaryDirectory() as folder:
        model = {
            "model_id": "ours",
            "model_name": NAME,
            "api_base": address,
            "api_key_name": "none",
        }
        Path(folder, "extra-openai-models.yaml").write_text(json.dumps([model]))
        environment = os.environ | {"LLM_USER_PATH": folder}
        command = [sys.executable, "-m", "llm", "-m", "ours", "--key", "none"]
        texts = [
            subprocess.run(
                [*command, *more, QUESTION], env=environment, capture_output=True, text=True
            )
            for more in ([], ["--no-stream"])
        ]
    assert all(one.returncode == 0 for one in texts), texts
    return {"text": texts[0].stdout, "unstreamed": texts[1].stdout}


def langchain(address: str) -> dict[str, Any]:
    """Ask with LangChain's class: at once, streamed, asynchronously, in a batch, as responses."""
    from langchain_openai import ChatOpenAI

    model: Any = ChatOpenAI(base_url=address, api_key="none", model=NAME)
    responses: Any = ChatOpenAI(
        base_url=address, api_key="none", model=NAME, use_responses_api=True
    )
    reply = model.invoke(QUESTION)
    return {
        "response": str(responses.invoke(QUESTION).text),
        "streamed response": "".join(str(chunk.text) for chunk in responses.stream(QUESTION)),
        "text": reply.content,
        "streamed": "".join(chunk.content for chunk in model.stream(QUESTION)),
        "later": asyncio.run(model.ainvoke(QUESTION)).content,
        "batch": [one.content for one in model.batch([QUESTION] * 3)],
        "tokens": reply.usage_metadata["output_tokens"],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(globals()[sys.argv[1]](sys.argv[2])) + "\n")
