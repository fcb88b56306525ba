r"""Train a model from scratch: `sounder` takes half an hour on one CPU core, or `--device cuda`.

    python examples/training/train.py --out runs/sounder
    python examples/training/train.py --model fathom --out runs/fathom

It can be stopped and started again: it continues from `checkpoint.pt` in its folder, with the same
batches as without a stop. Stage 1 lengthens the walks, as soon as the model has learnt what the
depth allows; stage 2 has longer ones and more of them, and every depth.

The one rule: every batch is drawn from (seed, step), so only the step has to be stored.
Further heads help the training and are not part of the model: they read the previous words after
the head layer, and after loop t what is found t hops on, as far as the stride goes.
"""

import argparse
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import torch
from initial import look_back
from looped import LoopedModel
from packing import NOTHING, Batch, collate, training_rows
from recipes import RECIPES, Recipe, Stage
from torch import Tensor, nn
from torch.nn import functional

PATIENCE = 40  # batches whose mean decides whether walks grow
WARM_UP = 100
FORM = 0.2  # weight of the loss on strides and ends, which are easy


@dataclass(slots=True)
class Curriculum:
    """Where the curriculum stands: walks of `n_hops`; `step` is the next one."""

    n_hops: int
    step: int = 0
    stage: int = 1


class Trainee(nn.Module):
    """The model with the heads that only training uses."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        n_words, width = recipe.shape.vocabulary, recipe.shape.width
        self.looped = LoopedModel(recipe.shape)
        self.backs = nn.ModuleList(nn.Linear(width, n_words) for _ in range(recipe.n_looks))
        self.traces = nn.ModuleList(nn.Linear(width, n_words) for _ in range(recipe.n_streams))
        with torch.no_grad():
            look_back(self.looped, recipe.language, recipe.n_looks)
            recipe.match(self.looped)

    def losses(self, batch: Batch, depth: int, stage: Stage) -> tuple[Tensor, Tensor]:
        """Return the loss, and which of the labels `found` were hit, as 0 and 1."""
        states = self.looped.states(batch.ids, batch.positions, batch.mask, depth)
        asked, formal = batch.found != NOTHING, batch.form != NOTHING
        logits, wanted = self.looped.logits(states[-1][asked]), batch.found[asked]
        loss = functional.cross_entropy(logits, wanted) + FORM * functional.cross_entropy(
            self.looped.logits(states[-1][formal]), batch.form[formal]
        )
        for distance, head in enumerate(self.backs, 1):
            loss = loss + stage.look_back * _look_back_loss(batch, states[0], head, distance)
        for stream, head in enumerate(self.traces):
            loss = loss + stage.trace * _trace_loss(batch.way[..., stream], states[1:-1], head)
        return loss, (logits.argmax(-1) == wanted).float()


def _look_back_loss(batch: Batch, state: Tensor, head: nn.Module, distance: int) -> Tensor:
    # A question's first word follows the facts, but not in its own row: not asked for.
    own = (batch.positions[:, distance:] - batch.positions[:, :-distance]) == distance
    return functional.cross_entropy(head(state[:, distance:][own]), batch.ids[:, :-distance][own])


def _trace_loss(ways: Tensor, loops: list[Tensor], head: nn.Module) -> Tensor:
    """Return the loss of reading each loop's hop; `ways` is (batch, length, hops)."""
    asked = ways[..., 0] != NOTHING
    way = ways[asked]
    heard = torch.stack(
        [head(functional.rms_norm(state[asked], state.shape[-1:])) for state in loops], 1
    )
    wanted = torch.stack([way[:, min(t, way.shape[1] - 1)] for t in range(len(loops))], 1)
    return functional.cross_entropy(heard.flatten(0, 1), wanted.flatten())


def draw_batch(
    recipe: Recipe, seed: int, progress: Curriculum, device: str
) -> tuple[Batch, int, Stage]:
    """Return the batch of a step, its depth, and its stage."""
    rng = Random(f"{recipe.name} training {seed} {progress.step}")
    stage, n_hops = recipe.stages[progress.stage - 1], progress.n_hops
    if progress.stage == 1:
        depth = rng.randint(max(1, n_hops // 2), min(n_hops + 1, recipe.deepest))
    else:
        n_hops = rng.randint(max(4, n_hops - recipe.spread), n_hops)
        depth = rng.randint(1, recipe.deepest)
    return collate(training_rows(rng, recipe, stage, n_hops), recipe, device), depth, stage


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
    recipe = RECIPES[args.model]
    torch.manual_seed(args.seed)
    trainee = Trainee(recipe).to(args.device)
    optimizer = _optimizer(trainee, args.lr)
    progress, place = Curriculum(recipe.hops[0]), Path(args.out) / "checkpoint.pt"
    place.parent.mkdir(parents=True, exist_ok=True)
    recent: deque[float] = deque(maxlen=PATIENCE)
    if place.exists():
        saved = torch.load(place, map_location=args.device)
        trainee.load_state_dict(saved["trainee"])
        optimizer.load_state_dict(saved["optimizer"])
        progress, recent = Curriculum(**saved["progress"]), deque(saved["recent"], PATIENCE)
    started, seen = time.monotonic(), []
    while progress.step < args.steps:
        batch, depth, stage = draw_batch(recipe, args.seed, progress, args.device)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * lr_factor(progress.step, args.steps, args.constant)
        loss, hits = trainee.losses(batch, depth, stage)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizer.step()
        asked = batch.found != NOTHING
        within = batch.hops[asked] <= depth
        recent.append(hits[within].mean().item())
        kinds = asked.nonzero()[:, 0] % len(recipe.kinds)
        by_kind = [hits[within & (kinds == k)].mean().item() for k in range(len(recipe.kinds))]
        seen.append((loss.item(), hits.mean().item(), *by_kind))
        progress = grown(replace(progress, step=progress.step + 1), recent, recipe)
        if progress.step % args.report == 0 or progress.step == args.steps:
            print(
                _report(recipe, progress, seen), f"{time.monotonic() - started:.0f} s", flush=True
            )
            seen.clear()
            _save(
                place,
                {"trainee": trainee.state_dict(), "optimizer": optimizer.state_dict()},
                progress,
                recent,
            )


def _report(recipe: Recipe, progress: Curriculum, seen: list[tuple[float, ...]]) -> str:
    """Return where training stands and the means since the last report."""
    loss, right, *by_kind = (sum(column) / len(seen) for column in zip(*seen, strict=True))
    kinds = ", ".join(
        f"{kind.name} {share:.3f}" for kind, share in zip(recipe.kinds, by_kind, strict=True)
    )
    where = f"step {progress.step} stage {progress.stage} hops {progress.n_hops}"
    return f"{where} loss {loss:.3f} right {right:.3f} within depth {kinds}"


def _optimizer(trainee: Trainee, lr: float) -> torch.optim.Optimizer:
    matrices = [p for p in trainee.parameters() if p.ndim > 1]
    others = [p for p in trainee.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))


def _save(
    place: Path, states: dict[str, object], progress: Curriculum, recent: deque[float]
) -> None:
    """Write the checkpoint beside its place and move it there, so that a stop leaves the one
    before.
    """
    fresh = place.with_suffix(".new")
    torch.save(states | {"progress": asdict(progress), "recent": list(recent)}, fresh)
    fresh.replace(place)


def grown(progress: Curriculum, recent: deque[float], recipe: Recipe) -> Curriculum:
    """Return the curriculum after a step: longer walks, or the next stage, once `recent` says so.

    Clears `recent` then.
    """
    _, most_of_stage_1, most = recipe.hops
    if (
        len(recent) < PATIENCE
        or sum(recent) / len(recent) < recipe.mastered
        or progress.n_hops == most
    ):
        return progress
    recent.clear()
    if progress.stage == 1 and progress.n_hops == most_of_stage_1:
        return replace(progress, stage=2)
    return replace(progress, n_hops=progress.n_hops + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(RECIPES), default="sounder")
    parser.add_argument("--out", help="folder; runs/MODEL without it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="the recipe's without it, as the next two")
    parser.add_argument("--lr", type=float)
    parser.add_argument(
        "--constant", type=float, help="share of the steps before the learning rate falls"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = RECIPES[args.model]
    usual = {
        "out": f"runs/{recipe.name}",
        "steps": recipe.n_steps,
        "lr": recipe.lr,
        "constant": recipe.constant,
    }
    for name, value in usual.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    train(args)


if __name__ == "__main__":
    main()
