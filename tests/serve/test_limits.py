"""Who may ask and for how much, how a full service refuses, and how it ends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from click.testing import CliRunner
from counting_service import MESSAGES, MODELS, SECONDS, Served, request, served, wait_until_waiting

from orchestrator.cli.main import leadline
from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec
from orchestrator.serve.routes.app import Limits

PLAN = Plan(models=MODELS, strategy=PluginSpec("consistency", {"n": 1}), domain="number")
KEYS = """
[often]
sha256 = "{often}"
requests_per_minute = 2
[much]
sha256 = "{much}"
tokens_per_day = 10
[free]
key_env = "LEADLINE_TEST_KEY"
"""


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service with three keys; the one in the environment has no limits."""
    path = tmp_path_factory.mktemp("keyed")
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("often", "much")}
    (path / "keys.toml").write_text(KEYS.format(**digests))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEADLINE_TEST_KEY", "free")
        with served(PLAN, str(path), keys=path / "keys.toml", data=path / "data") as one:
            yield one


def ask(service: Served, key: str) -> Any:
    create = service.client(key).chat.completions.create
    return create(model="small", messages=MESSAGES)


@pytest.mark.parametrize("key", ["none", "ﬁ"])
def test_a_service_with_keys_serves_nobody_else(keyed: Served, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}".encode()}
    for path in ("/v1/models", "/metrics", "/v1/files", "/openapi.json"):
        response = httpx.get(keyed.root + path, headers=headers, timeout=SECONDS)
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(f"{keyed.root}/health", timeout=SECONDS).status_code == 200
    with pytest.raises(openai.AuthenticationError):
        ask(keyed, "none")


def test_requests_a_minute_are_limited_for_each_key(keyed: Served) -> None:
    """Two a minute: the third may come once half a minute has passed."""
    for _ in range(2):
        ask(keyed, "often")
    with pytest.raises(openai.RateLimitError, match="2 requests a minute") as refused:
        ask(keyed, "often")
    assert 1 <= int(refused.value.response.headers["Retry-After"]) <= 31
    assert ask(keyed, "free").choices


def test_tokens_of_a_day_are_limited_for_each_key(keyed: Served) -> None:
    """The first request spends the day's tokens; what it costs is known only at its end."""
    assert ask(keyed, "much").choices
    with pytest.raises(openai.RateLimitError, match="10 tokens a day") as refused:
        ask(keyed, "much")
    assert refused.value.code == "insufficient_quota"
    assert int(refused.value.response.headers["Retry-After"]) >= 1


def test_a_key_sees_its_own_files_only(keyed: Served) -> None:
    file = keyed.client("free").files.create(file=b"{}", purpose="batch")
    assert [one.id for one in keyed.client("free").files.list()] == [file.id]
    assert not list(keyed.client("much").files.list())
    with pytest.raises(openai.NotFoundError):
        keyed.client("much").files.content(file.id)


def test_metrics_count_requests_and_tokens_by_purpose(keyed: Served) -> None:
    reply = ask(keyed, "free")
    assert reply.usage is not None
    headers = {"Authorization": "Bearer free"}
    text = httpx.get(f"{keyed.root}/metrics", headers=headers, timeout=SECONDS).text
    assert 'leadline_requests_total{path="/v1/chat/completions",status="200"}' in text
    assert 'leadline_output_tokens_total{purpose="solve"}' in text
    assert 'leadline_votes_total{end="decided"}' in text
    assert "leadline_running 0.0" in text


def test_the_log_names_requests_and_holds_no_text_and_no_key(
    keyed: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    reply = ask(keyed, "free")
    httpx.get(f"{keyed.root}/v1/models", headers={"Authorization": "Bearer secret"})
    log = capfd.readouterr().err
    assert f'"answer_id":"{reply.id}"' in log
    assert '"client":"free"' in log
    assert "How many days" not in log
    assert "secret" not in log


def test_a_full_service_refuses_with_a_time_to_come_back(tmp_path: Path) -> None:
    """Two run, one waits; the fourth is refused, and nothing of it is kept."""
    limits = Limits(max_waiting=1)
    options: Any = {"window": 2, "hang_rate": 1.0, "limits": limits, "drain_seconds": 0.0}
    with served(PLAN, str(tmp_path), **options) as one:
        clients = [request(one) for _ in range(2)]
        one.counts.wait_for(lambda c: c.n_running == 2)
        clients.append(request(one))
        wait_until_waiting(one, 1)
        with pytest.raises(openai.RateLimitError, match="too many requests") as refused:
            ask(one, "none")
        assert refused.value.response.headers["Retry-After"] == "1"
        clients.pop().close()
        wait_until_waiting(one, 0)
        for client in clients:
            client.close()
        one.counts.wait_for(lambda c: c.n_running == 0)
        assert len(one.counts.started) == 2


def test_a_key_may_have_so_many_requests_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(
        f"[one]\nconcurrent = 1\nsha256 = '{hashlib.sha256(b'one').hexdigest()}'"
    )
    options: Any = {"keys": tmp_path / "keys.toml", "hang_rate": 1.0, "drain_seconds": 0.0}
    with served(PLAN, str(tmp_path), **options) as service:
        client = request(service, key="one")
        service.counts.wait_for(lambda c: c.n_running == 1)
        with pytest.raises(openai.RateLimitError, match="1 requests at a time"):
            ask(service, "one")
        client.close()
        service.counts.wait_for(lambda c: c.n_running == 0)


def test_a_service_that_ends_takes_no_requests_and_finishes_those_it_has(tmp_path: Path) -> None:
    """While the last request runs, new ones get status 503; the end comes with its reply."""
    with served(PLAN, str(tmp_path), hang_rate=1.0, drain_seconds=float(SECONDS)) as one:
        client = request(one)
        one.counts.wait_for(lambda c: c.n_running == 1)
        one.stop()
        while httpx.get(f"{one.root}/ready", timeout=SECONDS).status_code != 503:
            pass
        with pytest.raises(openai.InternalServerError, match="shutting down") as refused:
            ask(one, "none")
        assert refused.value.status_code == 503
        assert refused.value.response.headers["Retry-After"]
        assert one.counts.n_running == 1
        client.close()


def test_what_is_left_when_the_time_to_drain_is_over_is_answered_with_what_it_has(
    tmp_path: Path,
) -> None:
    running = served(PLAN, str(tmp_path), hang_rate=1.0, drain_seconds=0.0)
    with running as one, request(one) as client:
        one.counts.wait_for(lambda c: c.n_running == 1)
        one.stop()
        reply = b"".join(iter(lambda: client.recv(65536), b""))
    assert reply.startswith(b"HTTP/1.1 200")
    assert b'"reason":"the service shut down after' in reply


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--host", "0.0.0.0"], "there are no keys"),
        (["--keys", "none.toml"], "none.toml cannot be read"),
        (["--host", "no.such.host.invalid"], "there are no keys"),
        (["--port", "70000"], "--port"),
        (["--batch.override", "false"], "--batch.override"),
    ],
)
def test_a_service_that_may_not_start_says_why(arguments: list[str], named: str) -> None:
    result = CliRunner().invoke(leadline, ["serve", "--execution.engine", "fake", *arguments])
    assert result.exit_code != 0
    assert named in result.output


def test_an_address_that_is_taken_is_an_error(tmp_path: Path) -> None:
    with served(PLAN, str(tmp_path)) as one:
        port = one.root.rpartition(":")[2]
        result = CliRunner().invoke(
            leadline, ["serve", "--execution.engine", "fake", "--port", port]
        )
    assert result.exit_code != 0
    assert f"cannot listen on 127.0.0.1:{port}" in result.output


def test_what_fails_in_the_engine_is_an_error_of_the_server_without_its_cause(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The client learns that it failed; why is in the log. The service stays up."""
    with served(PLAN, str(tmp_path), failure_rate=1.0) as one:
        for _ in range(3):
            with pytest.raises(openai.InternalServerError, match="could not serve") as failed:
                ask(one, "none")
            assert failed.value.status_code == 502
        body = {"model": "small", "messages": MESSAGES, "stream": True}
        url = f"{one.address}/chat/completions"
        events = httpx.post(url, json=body, timeout=SECONDS).text.split("\n\n")
    assert '"code":"engine_error"' in events[-3]
    assert events[-2:] == ["data: [DONE]", ""]
    assert '"cause":' in capfd.readouterr().err
