#!/bin/sh
# Records the jobs that `leadline demo` shows, with the real engine, and packs them into the package. Some minutes on two cores.
# The problems come from standard input, so that each job keeps a copy of them and can be moved.
#
#     sh examples/record_demo.sh
set -eu
cd "$(dirname "$0")/.."
archive=$PWD/orchestrator/cli/study/results/demo/jobs.zip
plan=$PWD/examples/fathom.toml
puzzles=$PWD/examples/fathom.jsonl
place=$(mktemp -d)
cd "$place"

# two puzzles of each kind and each of these lengths
record() {
  command=$1 name=$2
  shift 2
  grep -E '"hops": "(4|8|12|16)"' "$puzzles" | head -n 24 |
    leadline "$command" "$plan" --problems - --out "$name" --execution.engine vllm "$@"
}
# Attempts that begin with the same jump are one route: one of them finishes and votes for all. Sometimes the similarity takes two for one.
record run pruned --sampling.depth 4 --strategy deepprune --strategy.n 16 --strategy.keep every \
  --strategy.similarity lexical --strategy.tau 0.9 --strategy.n_words 0 --strategy.prefix_tokens 2
# a step is a jump: it ends with what is found behind the colon
record run search --sampling.depth 4 --strategy mits --selector pmi --strategy.n 3 --strategy.beam 3 \
  --strategy.delimiter ": " --strategy.steps 4 --strategy.step_tokens 50
record sweep sweep --depths 1,2,3,4,6 --widths 1..16

rm -f sweep/surface.png
python - "$place" "$archive" <<'END'
import sqlite3, sys, zipfile
from pathlib import Path

place, archive = map(Path, sys.argv[1:])
for journal in place.rglob("journal.db"):
    with sqlite3.connect(journal) as db:  # where it was recorded is nobody's concern
        db.execute("UPDATE meta SET value = replace(value, ?, 'demo')", (str(place),))
    db.execute("VACUUM")
    db.close()
with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
    for path in sorted(p for p in place.rglob("*") if p.is_file() and p.name != "lock"):
        name = path.relative_to(place).as_posix()
        content = path.read_bytes() if path.suffix == ".db" else path.read_text().replace(str(place), "demo")
        packed.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
END
rm -r "$place"
ls -l "$archive"
