"""The files of deploy/ fit the program: commands, flags, metrics and keys that they name exist.

What has no linter here is read by a parser; docs/deploy.md says what was not run.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from orchestrator.cli.main import leadline
from orchestrator.serve.access.keys import read_keys
from orchestrator.serve.telemetry import Metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PLUGIN_FLAG = re.compile(r"--(strategy|execution\.engine)\.\w+")


def text(name: str) -> str:
    return (DEPLOY / name).read_text()


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all(text(name)))


def require_command(line: str) -> list[str]:
    """Return the words of a command; it must exist, and have each flag."""
    words = shlex.split(line.replace("$", ""), comments=True)
    assert words[0] == "leadline", words
    context = click.Context(leadline)
    command = leadline.get_command(context, words[1])
    assert command is not None, words[1]
    known = {opt for param in command.get_params(click.Context(command)) for opt in param.opts}
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert [f for f in flags if f not in known and not PLUGIN_FLAG.fullmatch(f)] == []
    return words


def test_a_command_that_does_not_exist_is_found() -> None:
    with pytest.raises(AssertionError):
        require_command("leadline serve --nokeys k")
    with pytest.raises(AssertionError):
        require_command("leadline sreve")


def test_the_board_shows_metrics_that_the_service_has() -> None:
    """Each name in an expression is a sample of /metrics, and each label one of its labels."""
    known: dict[str, set[str]] = {}
    for metric in Metrics().registry._names_to_collectors.items():
        name, collector = metric
        known[name] = {*collector._labelnames, *(["le"] if name.endswith("_bucket") else [])}
    board = json.loads(text("board.json"))
    expressions = [t["expr"] for panel in board["panels"] for t in panel["targets"]]
    named = set(re.findall(r"leadline_\w+", " ".join(expressions)))
    assert named <= known.keys()
    families = {re.sub(r"_(total|bucket|sum|count|created)$", "", name) for name in known}
    shown = {re.sub(r"_(total|bucket)$", "", name) for name in named}
    assert shown == families, "what no panel shows"
    for expression in expressions:
        [name] = re.findall(r"leadline_\w+", expression)
        grouped = re.findall(r"by \(([^)]*)\)", expression)
        labels = {word.strip() for group in grouped for word in group.split(",")}
        labels |= set(re.findall(r"(\w+)=~?\"", expression))
        assert labels <= known[name], expression
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
    assert len({*places}) == len(places)


def test_compose_starts_the_service_and_reads_its_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [compose] = documents("compose.yaml")
    services, configs = compose["services"], compose["configs"]
    for service in services.values():
        for use in service.get("configs", []):
            assert use["source"] in configs
        for place in service.get("volumes", []):
            source = place.partition(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).is_file()
    command = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", services["leadline"]["command"])
    words = require_command(f"leadline {command}")
    build = services["leadline"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    for name in ("LEADLINE_KEY", "LEADLINE_METRICS_KEY"):
        assert name in services["leadline"]["environment"]
        monkeypatch.setenv(name, name)
    (tmp_path / "keys.toml").write_text(configs["keys"]["content"])
    assert read_keys(tmp_path / "keys.toml").client("Bearer LEADLINE_KEY").name == "clients"
    assert words[words.index("--keys") + 1] == services["leadline"]["configs"][0]["target"]
    scrape = yaml.safe_load(configs["prometheus"]["content"])["scrape_configs"][0]
    assert scrape["static_configs"] == [{"targets": ["leadline:8321"]}]
    assert scrape["authorization"]["credentials_file"] == "/run/secrets/metrics_key"
    assert services["prometheus"]["secrets"] == list(compose["secrets"])
    provided = yaml.safe_load(configs["datasource"]["content"])["datasources"]
    board = json.loads(text("board.json"))
    assert {p["datasource"]["uid"] for p in board["panels"]} == {provided[0]["uid"]}
    folder = yaml.safe_load(configs["dashboards"]["content"])["providers"][0]["options"]["path"]
    assert services["grafana"]["volumes"][0].split(":")[1].startswith(folder)


def test_the_image_is_built_from_what_the_checkout_has() -> None:
    lines = re.sub(r"\\\n", " ", text("Dockerfile")).splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    known = {"FROM", "ARG", "ENV", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE"}
    known |= {"HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {step for step, _ in steps} <= known
    for step, rest in steps:
        if step == "COPY":
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
    values = {step: rest for step, rest in steps if step in ("ENTRYPOINT", "CMD")}
    require_command(" ".join(json.loads(values["ENTRYPOINT"]) + json.loads(values["CMD"])[:1]))
    for extra in ("cpu", "cuda"):
        assert (ROOT / "locks" / f"{extra}.txt").is_file()
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    copied = " ".join(rest for step, rest in steps if step == "COPY")
    assert all(f"{name}/ " in copied for name in packages["targets"]["wheel"]["packages"])


def test_the_unit_starts_the_service(tmp_path: Path) -> None:
    [start] = re.findall(r"^ExecStart=\S*/(leadline .*)$", text("leadline.service"), re.MULTILINE)
    words = require_command(start)
    drain = int(words[words.index("--drain-seconds") + 1])
    [stop] = re.findall(r"^TimeoutStopSec=(\d+)$", text("leadline.service"), re.MULTILINE)
    assert int(stop) > drain + 5
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "leadline.service"  # with a program that is there
    unit.write_text(
        re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", text(unit.name), flags=re.M)
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_jobs_of_kuberay_run_commands_that_exist() -> None:
    jobs = documents("kuberay.yaml")
    assert {(job["apiVersion"], job["kind"]) for job in jobs} == {("ray.io/v1", "RayJob")}
    for job in jobs:
        words = require_command(job["spec"]["entrypoint"])
        replicas = int(words[words.index("--execution.engine.replicas") + 1])
        cluster = job["spec"]["rayClusterSpec"]
        [group] = cluster["workerGroupSpecs"]
        assert group["replicas"] == replicas
        for part in (cluster["headGroupSpec"], group):
            pod = part["template"]["spec"]
            volumes = {volume["name"] for volume in pod["volumes"]}
            for container in pod["containers"]:
                assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_the_script_for_slurm_is_bash_and_runs_a_command_that_exists() -> None:
    subprocess.run(["bash", "-n", DEPLOY / "slurm.sh"], check=True)
    [command] = re.findall(r"^(leadline run .*?) &$", text("slurm.sh"), re.MULTILINE)
    require_command(command)
