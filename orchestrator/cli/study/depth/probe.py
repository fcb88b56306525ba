"""`leadline depth` and `depth probe`, which proposes a think block for a model.

Tables go to the standard output, progress and remarks to the error stream. Not here: the other
commands of the group (`search`, `calibrate`).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from orchestrator.cli.console import message, print_json, results_console, write_json
from orchestrator.cli.options import EXIT_CODES, debug_option, json_option
from orchestrator.cli.study.depth.calibrate import calibrate
from orchestrator.cli.study.depth.search import search
from orchestrator.cli.view.layers import probe_view
from orchestrator.core.errors import JournalError, PlanError
from orchestrator.studies.layers import think_block
from orchestrator.studies.layers.loading import load_decoder
from orchestrator.studies.sweep.surface import parse_counts


@click.group(epilog=EXIT_CODES)
def depth() -> None:
    """Choose the layers that a model runs, their order, and when the tokens of a loop stop.

    `probe` and `search` measure in plain PyTorch, without an engine.

    \b
    Examples:
      leadline depth probe smollm2
      leadline depth search smollm2 --plan examples/arithmetic.toml
      leadline depth calibrate examples/sounder.toml --loss 0.05
    """


depth.add_command(search)
depth.add_command(calibrate)


@depth.command(short_help="Propose a think block.", epilog=EXIT_CODES)
@click.argument("model")
@click.option(
    "--text",
    "text_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Measure on this text instead of the built-in one.",
)
@click.option(
    "--depths",
    default="1,2,3",
    metavar="R,R,...",
    show_default=True,
    help="Measure the effect of looping at these depths.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for probe.json and probe.png.  [default: runs/probe-MODEL]",
)
@json_option
@debug_option
def probe(model: str, text_file: Path | None, depths: str, out: Path | None, as_json: bool) -> int:
    """Measure how far each layer of MODEL turns the residual stream, and propose the block to loop.

    Prints the angular distance of each layer, a schedule `encode (think)*r decode` from the knees
    of that curve, and the effect of looping the block on the likelihood of the text, plain and
    damped.
    MODEL is smollm2, a folder or a hub name.

    \b
    Examples:
      leadline depth probe smollm2
      leadline depth probe ./my-model --text sample.txt --depths 1,2,4
    """
    all_depths = parse_counts(depths, "--depths")
    text = think_block.built_in_text() if text_file is None else _read_text(text_file)
    model_name = Path(model.rstrip("/")).name or "model"
    folder = out or Path("runs") / f"probe-{model_name}"
    message("loading the model")
    decoder = load_decoder(model)
    message("measuring")
    measured = think_block.probe(decoder, model, text, all_depths)
    document = _probe_document(measured, text_file)
    _make_folder(folder)
    write_json(folder / "probe.json", document)
    if find_spec("matplotlib") is None:
        message("no plot was drawn, because matplotlib is missing: pip install 'leadline[plot]'")
    else:
        from orchestrator.cli.view.plots import draw_distances

        title = f"{model}: {measured.n_tokens:,} tokens"
        draw_distances(folder / "probe.png", measured.distances, measured.schedule, title)
    if as_json:
        print_json(document)
    else:
        results_console().print(probe_view(measured, folder))
    return 0


def _probe_document(measured: think_block.LayerProbe, text_file: Path | None) -> dict[str, object]:
    return {
        "model": measured.model,
        "text": str(text_file or "built in"),
        "n_tokens": measured.n_tokens,
        "distances": measured.distances,
        "schedule": measured.schedule and str(measured.schedule),
        "loops": measured.loops,
    }


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"{path} is not text in UTF-8: byte {error.start + 1} is not") from error


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}; choose another folder with --out") from error
