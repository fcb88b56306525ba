"""Train the model `sounder` from scratch: half an hour on one CPU core, or `--device cuda`.

    python examples/sounder/train.py --out runs/sounder

It can be stopped and started again: it continues from `checkpoint.pt` in its folder, with the same
batches as without a stop. Stage 1 lengthens three chains from three people to six, as soon as the
model has learnt what the depth allows; stage 2 has four chains of up to eight, and every depth from
1 to 8.

The one rule: every batch is drawn from (seed, step), so only the step has to be stored.
Two heads help the training and are not part of the model: one reads the previous word after the
head layer, one reads after loop t the person t hops on, as far as the stride goes.
"""

import argparse
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import torch
from looped import Looped, Shape
from packing import NOTHING, Batch, collate, training_row
from puzzles import NAMES
from torch import Tensor, nn
from torch.nn import functional
from vocabulary import ID, SUBJECTS, WORDS

MASTERED = 0.85  # share right, of what the depth allows, at which chains grow
PATIENCE = 40  # batches it is the mean of
WARM_UP = 100


@dataclass(frozen=True, slots=True)
class Stage:
    n_rows: int
    n_chains: int
    room_for: int  # tokens of questions in a row
    look_back: float  # weight of the head that reads the previous words
    trace: float  # weight of the head that reads the way
    practice: float  # share of questions with short strides


STAGE_1 = Stage(n_rows=64, n_chains=3, room_for=64, look_back=0.5, trace=1.0, practice=0.5)
STAGE_2 = Stage(n_rows=32, n_chains=4, room_for=96, look_back=0.1, trace=0.3, practice=0.25)
# Chains of one person teach to look for rooms only, a plateau that chains of two did not leave in
# 300 steps.
SHORTEST, STAGE_1_LONGEST, LONGEST, DEEPEST = 3, 6, 8, 8
FORM = 0.2  # weight of the loss on strides and ends, which are easy


@dataclass(slots=True)
class Progress:
    """Where the curriculum stands: chains of `n_hops` people; `step` is the next one."""

    step: int = 0
    n_hops: int = SHORTEST
    stage: int = 1


class Trainee(nn.Module):
    """The model with the two heads that only training uses."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.looped = Looped(shape)
        self.back = nn.Linear(shape.width, shape.vocabulary)
        self.trace = nn.Linear(shape.width, shape.vocabulary)
        with torch.no_grad():
            _start_looking_back(self.looped)
            _start_matching(self.looped)

    def losses(self, batch: Batch, depth: int, stage: Stage) -> tuple[Tensor, Tensor]:
        """Return the loss, and which of the labels `found` were hit, as 0 and 1."""
        states = self.looped.states(batch.ids, batch.positions, batch.mask, depth)
        asked, formal = batch.found != NOTHING, batch.form != NOTHING
        logits, wanted = self.looped.logits(states[-1][asked]), batch.found[asked]
        loss = functional.cross_entropy(logits, wanted) + FORM * functional.cross_entropy(
            self.looped.logits(states[-1][formal]), batch.form[formal]
        )
        loss = (
            loss
            + stage.look_back * self._look_back_loss(batch, states[0])
            + stage.trace * self._trace_loss(batch, states[1:-1], asked)
        )
        return loss, (logits.argmax(-1) == wanted).float()

    def _look_back_loss(self, batch: Batch, state: Tensor) -> Tensor:
        # A question's first word follows the facts, but not in its own row: not asked for.
        own = (batch.positions[:, 1:] - batch.positions[:, :-1]) == 1
        return functional.cross_entropy(self.back(state[:, 1:][own]), batch.ids[:, :-1][own])

    def _trace_loss(self, batch: Batch, loops: list[Tensor], asked: Tensor) -> Tensor:
        way = batch.way[asked]
        heard = torch.stack(
            [self.trace(functional.rms_norm(state[asked], state.shape[-1:])) for state in loops], 1
        )
        wanted = torch.stack([way[:, min(t, way.shape[1] - 1)] for t in range(len(loops))], 1)
        return functional.cross_entropy(heard.flatten(0, 1), wanted.flatten())


def _start_looking_back(looped: Looped) -> None:
    """Let head 0 of layer 0 begin by looking at the previous token: learning that from scratch
    takes hundreds of steps.

    Every embedding gets a constant in dimension 0. Query and key read it alone, a rotation by one
    position apart, in the fastest frequencies: their product is the largest one token back. "Gus:"
    begins as "Gus" but for dimension 1.
    """
    embedding, attention = looped.model.embed_tokens.weight, looped.model.layers[0].self_attn
    nn.init.normal_(embedding, std=0.5)
    names, subjects = (slice(ID[words[0]], ID[words[-1]] + 1) for words in (NAMES, SUBJECTS))
    embedding[subjects] = embedding[names]
    embedding[:, :2] = 2.0
    embedding[subjects, 1] = -2.0
    half, n_fast, gain = looped.shape.head_dim // 2, 5, 2.0
    angles = looped.shape.theta ** (-torch.arange(n_fast) / half)
    for projection, turn in ((attention.q_proj, 0.0), (attention.k_proj, 1.0)):
        projection.weight[: 2 * half] = 0.0
        projection.weight[:n_fast, 0] = gain * torch.cos(turn * angles)
        projection.weight[half : half + n_fast, 0] = gain * torch.sin(turn * angles)


def _start_matching(looped: Looped) -> None:
    """Let the think layer begin by looking for what resembles the state, and copying it."""
    attention = looped.model.layers[1].self_attn
    attention.k_proj.weight.copy_(attention.q_proj.weight)
    attention.o_proj.weight.copy_(attention.v_proj.weight.T)


def draw_batch(seed: int, progress: Progress, device: str) -> tuple[Batch, int, Stage]:
    """Return the batch of a step, its depth, and its stage."""
    rng = Random(f"sounder training {seed} {progress.step}")
    stage = STAGE_1 if progress.stage == 1 else STAGE_2
    n_hops = progress.n_hops
    if progress.stage == 1:
        depth = rng.randint(max(1, n_hops // 2), n_hops + 1)
    else:
        n_hops, depth = rng.randint(max(4, n_hops - 2), n_hops), rng.randint(1, DEEPEST)
    rows = [
        training_row(rng, stage.n_chains, n_hops, stage.room_for, stage.practice)
        for _ in range(stage.n_rows)
    ]
    return collate(rows, device), depth, stage


def lr_factor(step: int, n_steps: int, constant: float) -> float:
    """Return the learning rate as a share of the highest: up, constant for a share of the steps,
    then down in a line to 0.02.
    """
    down = max(0.0, (step - constant * n_steps) / ((1 - constant) * n_steps))
    return min(1.0, (step + 1) / WARM_UP) * (1 - 0.98 * min(1.0, down))


def train(args: argparse.Namespace) -> None:
    """Train, with a line of progress every `args.report` steps; the folder gets `checkpoint.pt` as
    often.
    """
    torch.manual_seed(args.seed)
    trainee = Trainee(Shape(len(WORDS))).to(args.device)
    optimizer = _optimizer(trainee, args.lr)
    progress, place = Progress(), Path(args.out) / "checkpoint.pt"
    place.parent.mkdir(parents=True, exist_ok=True)
    recent: deque[float] = deque(maxlen=PATIENCE)
    if place.exists():
        saved = torch.load(place, map_location=args.device)
        trainee.load_state_dict(saved["trainee"])
        optimizer.load_state_dict(saved["optimizer"])
        progress, recent = Progress(**saved["progress"]), deque(saved["recent"], PATIENCE)
    started, seen = time.monotonic(), []
    while progress.step < args.steps:
        batch, depth, stage = draw_batch(args.seed, progress, args.device)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * lr_factor(progress.step, args.steps, args.constant)
        loss, hits = trainee.losses(batch, depth, stage)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizer.step()
        within = batch.hops[batch.found != NOTHING] <= depth
        recent.append(hits[within].mean().item())
        seen.append((loss.item(), hits.mean().item()))
        progress = grown(replace(progress, step=progress.step + 1), recent)
        if progress.step % args.report == 0 or progress.step == args.steps:
            means = [sum(column) / len(seen) for column in zip(*seen, strict=True)]
            seen.clear()
            where = f"step {progress.step} stage {progress.stage} hops {progress.n_hops}"
            mastered = f"within depth {sum(recent) / max(1, len(recent)):.3f}"
            seconds = f"{time.monotonic() - started:.0f} s"
            print(
                f"{where} loss {means[0]:.3f} right {means[1]:.3f} {mastered} {seconds}", flush=True
            )
            _save(
                place,
                {"trainee": trainee.state_dict(), "optimizer": optimizer.state_dict()},
                progress,
                recent,
            )


def _optimizer(trainee: Trainee, lr: float) -> torch.optim.Optimizer:
    matrices = [p for p in trainee.parameters() if p.ndim > 1]
    others = [p for p in trainee.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))


def _save(place: Path, states: dict[str, object], progress: Progress, recent: deque[float]) -> None:
    """Write the checkpoint beside its place and move it there, so that a stop leaves the one
    before.
    """
    fresh = place.with_suffix(".new")
    torch.save(states | {"progress": asdict(progress), "recent": list(recent)}, fresh)
    fresh.replace(place)


def grown(progress: Progress, recent: deque[float]) -> Progress:
    """Return the curriculum after a step: longer chains, or the next stage, once `recent` says so.

    Clears `recent` then.
    """
    if len(recent) < PATIENCE or sum(recent) / len(recent) < MASTERED or progress.n_hops == LONGEST:
        return progress
    recent.clear()
    if progress.stage == 1 and progress.n_hops == STAGE_1_LONGEST:
        return replace(progress, stage=2)
    return replace(progress, n_hops=progress.n_hops + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/sounder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument(
        "--constant",
        type=float,
        default=0.6,
        help="share of the steps before the learning rate falls",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
