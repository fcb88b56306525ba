"""The key `problems`: a path, a URI, standard input, or a recipe, which sets other keys too.

Nothing is opened here; `orchestrator.jobs.rows` reads what is named.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from orchestrator.core.errors import PlanFault
from orchestrator.core.plan import Plan
from orchestrator.plan.file.recipes import RECIPES, Recipe

Location: TypeAlias = str | Path
STANDARD_INPUT = "-"
_NAME_BYTES = 255  # of a file or a folder, on every common file system
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# only these: `?` is also a wildcard
QUERY = re.compile(r"\?((?:name|split|revision)=[^&?]*(?:&(?:name|split|revision)=[^&?]*)*)$")


def is_uri(location: Location) -> bool:
    """Tell whether a location names a file system by its scheme."""
    return isinstance(location, str) and bool(_URI.match(location))


def title_of(location: Location) -> str:
    """Return a short name for a location, such as a directory can have."""
    text = QUERY.sub("", str(location))
    if text == STANDARD_INPUT:
        return "stdin"
    parts = re.split(r"[/\\]", _URI.sub("", text))
    usable = [p for p in parts if p not in ("", ".", "..") and not re.search(r"[*?\[]", p)]
    return PurePosixPath(usable[-1].partition("@")[0]).stem if usable else "problems"


def placed(text: str, folder: Path | None) -> Location:
    """Return a location as written in a plan file of this folder, or (None) on a command line."""
    if text == STANDARD_INPUT or is_uri(text):
        return text
    path = Path(text) if folder is None else folder / text
    # a path that `Path` would change the meaning of stays a text
    return str(path) if QUERY.search(text) else path


def require_path(key: str, text: str) -> None:
    """Raise PlanFault if a text cannot be a path on any file system."""
    names = [] if is_uri(text) else re.split(r"[/\\]", text)
    if "\0" in text or any(len(name.encode("utf-8", "replace")) > _NAME_BYTES for name in names):
        raise PlanFault(
            key,
            f"{key} = {text[:_NAME_BYTES]!r:.60}: no file has such a name: it contains a null "
            f"character, or a name of more than {_NAME_BYTES} bytes",
        )


def recipe_named(problems: object) -> tuple[str, str]:
    """Return the recipe that `problems` names, and the place of its files; "" where there is none.

    `gsm8k@FOLDER` is the recipe with a copy of its files; without a place they are on the hub.
    """
    if not isinstance(problems, str):
        return "", ""
    name, _, place = problems.partition("@")
    return (name, place) if name in RECIPES else ("", "")


def source_of(recipe: Recipe, place: str) -> str:
    """Return where a recipe's rows are; of a copy, its files are selected as those of the hub."""
    query = QUERY.search(recipe.source)
    if not place:
        return recipe.source
    return place if QUERY.search(place) or query is None else place + query[0]


def apply_recipe(recipe: Recipe, tree: dict[str, Any]) -> None:
    """Set the keys of a recipe in a plan's tree, where the plan does not set them itself."""
    tree.setdefault("domain", recipe.domain)
    for key, values in (("sampling", {"template": recipe.template}), ("columns", recipe.columns)):
        own = tree.get(key, {})
        if isinstance(own, dict):
            tree[key] = {**values, **own}
    if recipe.verifiers:
        tree.setdefault("verifiers", list(recipe.verifiers))
    if recipe.selector and "strategy" not in tree:
        tree.setdefault("selector", dict(recipe.selector))


def with_recipe(recipe: Recipe, plan: Plan) -> Plan:
    """Return a plan from Python with what a recipe sets, where the plan has the defaults."""
    default, sampling = Plan(), plan.sampling
    changes: dict[str, Any] = {}
    if sampling.template == default.sampling.template:
        changes["sampling"] = replace(sampling, template=recipe.template)
    if plan.domain == default.domain:
        changes["domain"] = recipe.domain
    if not plan.verifiers:
        changes["verifiers"] = recipe.verifiers
    if recipe.selector and plan.strategy == default.strategy and not plan.names_selector:
        changes["selector"] = dict(recipe.selector)
    return replace(plan, **changes)


def published(name: str, plan: Plan) -> list[str]:
    """Return a line for each model of a plan whose number on a recipe's problems is published."""
    known = RECIPES[name].published
    by_name = {PurePosixPath(path).name: path for path in known}
    paths = [model.path.rstrip("/") for model in plan.models.values()]
    found = [known_as for path in paths if (known_as := by_name.get(PurePosixPath(path).name))]
    return [f"published of {path} on {name}: {known[path]}" for path in dict.fromkeys(found)]
