"""A probe of a tiny model from its folder to the picture; what it refuses; and that nothing of it
is imported before it is used.
"""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import leadline
from orchestrator.cli.view.plots import draw_distances
from orchestrator.core.errors import PlanError
from orchestrator.core.layers import parse_schedule
from orchestrator.studies.layers import loading
from orchestrator.studies.layers.think_block import built_in_text


def test_the_commands_import_no_torch_before_a_model_is_wanted() -> None:
    code = (
        "import sys, orchestrator.cli.study.depth.probe; "
        "print([m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_NEEDED", ("torch_that_is_not_there",))
    with pytest.raises(
        PlanError,
        match=r"needs torch_that_is_not_there: run `make env`, or `pip install 'leadline\[cpu\]'`",
    ):
        loading.load_decoder("smollm2")


def test_the_built_in_text_is_long_enough_for_an_interval() -> None:
    assert 1_200 < len(built_in_text().split()) < 2_000


def test_a_picture_is_drawn_with_and_without_a_proposal(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name, schedule in (("with.png", parse_schedule("0 (1-2)*r 3")), ("without.png", None)):
        draw_distances(tmp_path / name, [0.4, 0.1, 0.1, 0.3], schedule, "a model")
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def tiny_with_a_calm_middle(folder: Path) -> Path:
    """Eight layers of which 2 to 5 hardly move the stream."""
    torch = pytest.importorskip("torch")
    sys.path.insert(0, str(Path(__file__).parent))
    from tiny import save, tiny_model

    torch.set_num_threads(1)
    model = tiny_model(n_layers=8)
    with torch.no_grad():
        for layer in model.model.layers[2:6]:
            layer.self_attn.o_proj.weight *= 0.01
            layer.mlp.down_proj.weight *= 0.01
    return save(model, folder)


def probe(*arguments: str) -> Result:
    return CliRunner().invoke(leadline, ["depth", "probe", *arguments])


@pytest.mark.slow
def test_a_probe_finds_the_calm_block_measures_loops_and_writes_both_files(tmp_path: Path) -> None:
    folder = tiny_with_a_calm_middle(tmp_path / "tiny")
    text = tmp_path / "text.txt"
    text.write_text("the river carries more than water. " * 12)
    result = probe(
        str(folder), "--text", str(text), "--depths", "1,2", "--out", str(tmp_path / "out")
    )
    assert result.exit_code == 0, result.output
    assert "proposed: 0-1 (2-5)*r 6-7" in result.output
    found = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert len(found["distances"]) == 8
    assert max(found["distances"][2:6]) < min(found["distances"][:2] + found["distances"][6:])
    assert [(loop["depth"], loop["damped"], loop["n_layers_run"]) for loop in found["loops"]] == [
        (1, False, 8),
        (2, False, 12),
        (2, True, 12),
    ]
    assert (tmp_path / "out" / "probe.png").is_file()
    short = tmp_path / "short.txt"
    short.write_text("too short")
    refused = probe(str(folder), "--text", str(short))
    assert (refused.exit_code, "at least 256 are needed" in refused.output) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            ("/no/such/model",),
            "does not exist",
            marks=pytest.mark.skipif(find_spec("torch") is None, reason="needs torch"),
        ),
        (("smollm2", "--text", "/no/such/text"), "cannot be read"),
        (("smollm2", "--depths", "0"), "--depths '0': give whole numbers from 1"),
    ],
)
def test_bad_input_is_named(arguments: tuple[str, ...], said: str) -> None:
    result = probe(*arguments)
    assert result.exit_code == 2
    assert said in result.output
