"""Fleets on clusters of several nodes: what grows, shrinks, dies or hangs loses no request.

Each test runs a part of benchmarks/fleet.py or outages.py: the nodes are processes of this machine,
and the engines are fake. Ray belongs to a process, and ends it when its head is lost for long.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[3]


def figures(*arguments: str, program: str = "fleet.py") -> dict[str, Any]:
    command = [sys.executable, f"benchmarks/{program}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = dict(json.loads(done.stdout.splitlines()[-1]))
    assert "error" not in found, found["error"]
    return found


def test_a_fleet_grows_with_its_requests_and_shrinks_without_them() -> None:
    """Late replicas get requests, and those that leave finish theirs."""
    found = figures("elastic")
    assert (found["up"][0], max(found["up"]), found["up"][-1]) == (1, 3, 1)
    assert (found["traces"], found["mispaired"]) == (900, 0)


def test_nodes_that_die_or_hang_at_random_lose_repeat_and_mispair_nothing() -> None:
    """As on machines that may be preempted at any moment."""
    found = figures("kills", "--seconds", "20", "--every", "5", "--hang", "--seed", "1")
    assert found["disturbances"] > 0
    assert [found[key] for key in ("traces", "lost", "repeated", "mispaired")] == [1920, 0, 0, 0]


def test_nodes_that_hang_and_continue_bring_nothing_twice() -> None:
    """What they then return has long been given to others."""
    found = figures("wakes", "--seconds", "20", program="outages.py")
    assert found["disturbances"] > 0
    assert [found[key] for key in ("traces", "lost", "repeated", "mispaired")] == [1920, 0, 0, 0]


NETWORKS = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"), reason="network namespaces need root and `ip`"
)


@NETWORKS
def test_nodes_without_a_network_for_a_while_lose_repeat_and_mispair_nothing() -> None:
    """Both ends live and hear nothing of the other: no error says that a connection is gone."""
    found = figures("cuts", "--seconds", "20", "--every", "3", program="outages.py")
    assert found["disturbances"] > 1
    assert [found[key] for key in ("traces", "lost", "repeated", "mispaired")] == [1920, 0, 0, 0]


@NETWORKS
@pytest.mark.skipif(not any(Path("/usr/lib").glob("*/faketime")), reason="needs libfaketime")
def test_clocks_that_are_off_or_jump_change_nothing() -> None:
    """Hosts do not agree on the time, and it may be set while a job runs."""
    found = figures("clocks", "--seconds", "20", program="outages.py")
    assert found["disturbances"] > 0
    assert [found[key] for key in ("traces", "lost", "repeated", "mispaired")] == [1920, 0, 0, 0]


def test_a_lost_head_ends_the_job_with_the_reason_and_a_new_cluster_continues_it() -> None:
    """Ray would end the process a minute later, without a word of ours."""
    found = figures("head")
    assert "the head of the Ray cluster at" in found["reason"]
    assert "run the same command" in found["reason"]
    assert 0 < found["before"] < 1600
    assert [found[key] for key in ("traces", "lost", "repeated", "mispaired")] == [1600, 0, 0, 0]


def test_a_replica_over_two_nodes_survives_the_loss_of_either() -> None:
    """What is left of it would wait for the other part forever."""
    found = figures("spread", "--seconds", "15", "--every", "5")
    assert found["nodes_of_a_replica"] == [2]
    assert found["disturbances"] > 0
    assert [found[key] for key in ("traces", "lost", "repeated", "mispaired")] == [480, 0, 0, 0]


def test_what_has_no_place_is_named_and_the_job_does_without_it() -> None:
    """Three replicas on two processors, until a third node joins."""
    found = figures("short")
    assert "1 of 3 replicas of 'main' without a place for" in found["notice"]
    assert "Ray has found no place for a replica that needs 1 CPU and 0 GPU" in found["notice"]
    assert (found["up_without"], found["up_with"], found["mispaired"]) == (2, 3, 0)
    assert found["seconds"] > 0
