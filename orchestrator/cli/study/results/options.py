"""The options that the commands on finished jobs share."""

from __future__ import annotations

import click

problems_option = click.option(
    "--problems",
    default="",
    type=click.Path(),
    metavar="FILE",
    help="File with the reference answers, if they are not in the file that was run.",
)
by_option = click.option(
    "--by",
    "tags",
    multiple=True,
    metavar="TAG",
    help="Break down by this tag, a field of the problems' rows; may be repeated.  "
    "[default: those with few values]",
)
rows_option = click.option(
    "--rows",
    "n_rows",
    type=click.IntRange(min=0),
    default=40,
    show_default=True,
    metavar="N",
    help="Print at most N rows of a list; 0 for all.",
)
