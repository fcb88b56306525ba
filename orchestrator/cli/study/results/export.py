"""`leadline export`: writes what came out of a job to files for other tools."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.console import message, print_json
from orchestrator.cli.options import debug_option, json_option
from orchestrator.cli.study.results.options import problems_option
from orchestrator.cli.view.numbers import counted
from orchestrator.core.errors import PlanError
from orchestrator.report.scored import read_scored
from orchestrator.report.tables.export import DIRECTORY, ExportFormat, export

_TRAINING = (ExportFormat.SFT, ExportFormat.PREFERENCE)


@click.command(name="export")
@click.argument("directory", type=click.Path(), metavar="DIR")
@click.option(
    "--to",
    "kind",
    required=True,
    type=click.Choice([kind.value for kind in ExportFormat]),
    help="What to write; see above.",
)
@click.option(
    "--out", type=click.Path(), metavar="DIR", help="Where to write.  [default: DIR/export]"
)
@click.option(
    "--per-problem",
    type=click.IntRange(min=1),
    metavar="N",
    help="With sft and preference: at most N rows for one problem.",
)
@problems_option
@json_option
@debug_option
def export_job(
    directory: str,
    kind: str,
    out: str | None,
    per_problem: int | None,
    problems: str,
    as_json: bool,
) -> int:
    """Write the problems and attempts of a job to files.

    \b
    parquet, csv, jsonl  two tables, `problems` and `attempts`: question, answer, reference, right,
                         votes and cost; text, thinking, reply, state, metrics and verdicts
    hf                   the Parquet tables as a folder that datasets.load_dataset reads
    openai-batch         one line per problem, in the output format of OpenAI batches
    sft                  a conversation for each right attempt
    preference           pairs of a right and a wrong attempt at the same problem

    Names of the files that were written are printed. Files of an earlier export are replaced.

    \b
    Examples:
      leadline export runs/arithmetic --to parquet
      leadline export runs/arithmetic --to sft --per-problem 2 --out data
    """
    chosen = ExportFormat(kind)
    if per_problem and chosen not in _TRAINING:
        raise PlanError(f"--per-problem has no meaning with --to {kind}; leave it out")
    target = Path(out) if out else Path(directory) / DIRECTORY
    job = read_scored(directory, problems)
    written = export(job, chosen, target, per_problem or 0)
    for note in job.notes:
        message(f"note: {note}")
    if as_json:
        print_json({str(path): n for path, n in written.items()})
        return 0
    for path, n in written.items():
        click.echo(f"{path}: {counted(n, 'row')}" if n or path.suffix != ".md" else str(path))
    return 0
