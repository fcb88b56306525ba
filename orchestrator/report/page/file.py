"""One self-contained HTML file: the program, and the values of a document in compressed chunks.

The file requests nothing from anywhere: its policy allows this one script, by its hash, and this
one style sheet. Values are gzip in base64, so that nothing a model wrote is ever part of the
markup; a page inflates the chunk that it shows. The one rule: the file stays below its limit, as
far as shorter texts can help, and says what was left out.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

import msgspec

from orchestrator.report.page.document import Document, JobPages
from orchestrator.report.page.problem import AttemptPage, OtherTrace, ProblemPage
from orchestrator.report.page.texts import Text, cut_text

_CHUNK_BYTES = 400_000  # of a chunk before compression: some milliseconds to inflate and parse
_SAMPLED = 40  # problems of which the size of all is estimated
_SPARE = 0.96  # of the limit, for the error of that estimate
_LENGTHS = (0, 64_000, 32_000, 16_000, 8_000, 6_000, 4_000, 3_000, 2_000, 1_500, 1_000, 700)
_SHORTEST = (500, 350, 250, 150, 80)


@dataclass(frozen=True, slots=True)
class ReportFile:
    """The text of a report. `cut` is how many characters of a text it has (0: all), `n_left_out`
    how many it lacks.
    """

    text: str
    cut: int
    n_left_out: int


def report_file(
    document: Document, title: str, n_bytes: int, commands: Sequence[str]
) -> ReportFile:
    """Return the file of a document, of at most `n_bytes` if shorter texts can achieve that.

    `commands` are those that show a job in full, by the place of the job.
    """
    shell = len(html_page("").encode())
    room = (n_bytes - shell) * _SPARE
    every = [page for job in document.jobs for page in job.problems]
    sample = every[:: max(1, len(every) // _SAMPLED)]
    scale = len(every) / max(1, len(sample))
    fixed = sum(len(_packed(job.table)) for job in document.jobs)
    lengths = (*_LENGTHS, *_SHORTEST)
    fitting = (
        n for n in lengths if fixed + scale * len(_packed(_cut(sample, n))) < room or n == 80
    )
    for n in fitting:
        written = _written(document, title, n, commands)
        if len(written.text.encode()) <= n_bytes:
            break
    return written


def _written(document: Document, title: str, n: int, commands: Sequence[str]) -> ReportFile:
    chunks: dict[str, str] = {}
    jobs = []
    n_left_out = 0
    for place, job in enumerate(document.jobs):
        pages = _cut(job.problems, n)
        n_left_out += sum(page.n_left_out for page in pages)
        starts = _chunked(chunks, place, pages)
        chunks[f"t{place}"] = _packed(job.table)
        jobs.append(_index_of(job, starts, commands[place]))
    index = {
        "title": title,
        "jobs": jobs,
        "sweeps": document.sweeps,
        "comparisons": document.comparisons,
        "replays": document.replays,
        "notes": document.notes,
        "cut": n,
        "n_left_out": n_left_out,
    }
    blocks = {"index": _packed(index), **chunks}
    return ReportFile(html_page(title, tuple(blocks.items())), n, n_left_out)


def _index_of(job: JobPages, starts: Sequence[int], command: str) -> dict[str, object]:
    return {"overview": job.overview, "sweep": job.sweep, "starts": starts, "command": command}


def _chunked(chunks: dict[str, str], place: int, pages: Sequence[ProblemPage]) -> list[int]:
    """Store the pages of a job in chunks; return the place of the first page of each."""
    starts: list[int] = []
    rows: list[bytes] = []
    size = 0
    for number, page in enumerate(pages):
        if not starts or size > _CHUNK_BYTES:
            _close(chunks, place, starts, rows)
            starts.append(number)
            rows, size = [], 0
        rows.append(as_json(page))
        size += len(rows[-1])
    _close(chunks, place, starts, rows)
    return starts


def _close(
    chunks: dict[str, str], place: int, starts: Sequence[int], rows: Sequence[bytes]
) -> None:
    if rows:
        chunks[f"p{place}.{len(starts) - 1}"] = _compressed(b"[" + b",".join(rows) + b"]")


def _cut(pages: Sequence[ProblemPage], n: int) -> list[ProblemPage]:
    """Return pages whose texts have at most `n` characters (0: all)."""
    return [_cut_page(page, n) for page in pages] if n else list(pages)


def _cut_page(page: ProblemPage, n: int) -> ProblemPage:
    attempts = tuple(_cut_attempt(a, n) for a in page.attempts)
    others = tuple(_cut_other(t, n) for t in page.others[:n])
    groups = tuple(replace(g, prefix=_shorter(g.prefix, n)) for g in page.groups)
    question = _shorter(page.question, 4 * n)
    lost = sum(a.thinking.n_left_out + a.reply.n_left_out for a in attempts)
    return replace(
        page,
        question=question,
        attempts=attempts,
        others=others,
        groups=groups,
        n_left_out=lost + question.n_left_out,
    )


def _cut_attempt(attempt: AttemptPage, n: int) -> AttemptPage:
    # a reply says more about an answer than the thinking before it, and is shorter
    return replace(
        attempt,
        thinking=_shorter(attempt.thinking, n),
        reply=_shorter(attempt.reply, n),
        error=attempt.error[: 4 * n],
    )


def _cut_other(trace: OtherTrace, n: int) -> OtherTrace:
    return replace(trace, text=_shorter(trace.text, min(n, 160)))


def _shorter(text: Text, n: int) -> Text:
    return text if text.n_left_out else cut_text(text.text, n)


def _packed(value: object) -> str:
    return _compressed(as_json(value))


def _compressed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def as_json(value: object) -> bytes:
    """Return a value as JSON; what is not Unicode, such as half of a pair, becomes U+FFFD."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_readable(msgspec.to_builtins(value)))


def _readable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_readable(key): _readable(one) for key, one in value.items()}
    return [_readable(one) for one in value] if isinstance(value, list | tuple) else value


def _assets() -> tuple[str, str]:
    """Return the style sheet and the program."""
    folder = files("orchestrator.report.page") / "bundle"
    style, program = (folder / name for name in ("app.css", "app.js"))
    return style.read_text("utf-8").strip(), program.read_text("utf-8").strip()


def html_page(title: str, blocks: Sequence[tuple[str, str]] = (), token: str = "") -> str:
    """Return the page with its program and values; with a token, it fetches them from its server.

    The policy allows the program by its hash, the style sheet, and with a token its own server.
    """
    style, program = _assets()
    data = "\n".join(
        f'<script type="application/gzip" id="{name}">{content}</script>'
        for name, content in blocks
    )
    key = f'<meta name="leadline-token" content="{html.escape(token)}">\n' if token else ""
    needs = "These pages need JavaScript."
    if not token:
        needs = "This report needs JavaScript. It requests nothing."
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy(is_served=bool(token))}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
{key}<title>{html.escape(_readable_text(title))}</title>
<style>{style}</style>
</head>
<body>
<div id="app"><p class="boot">{needs}</p></div>
{data}
<script>{program}</script>
</body>
</html>
"""


def policy(*, is_served: bool) -> str:
    """Return the content security policy of the page; served, it may fetch from its own server."""
    style, program = _assets()
    connect = "connect-src 'self'; " if is_served else ""
    return (
        f"default-src 'none'; {connect}script-src {_hash(program)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _readable_text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _hash(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
