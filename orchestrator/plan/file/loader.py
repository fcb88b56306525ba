"""Plan files: from TOML and command-line flags to a checked plan.

An error names place, key, value and remedy. The table in `orchestrator.plan.keys` defines the fixed
keys; `orchestrator.plan.check` checks plugins. Only the plan's own file is read here;
`orchestrator.jobs.rows` reads problems.

Short forms, in files and flags alike: `model = "x"` for `[models.main] path = "x"`; `strategy =
"x"`, and likewise `selector`, `execution.engine`, `domains.NAME` and each of `verifiers`, for a
table with `name = "x"`; in `[domains.NAME]` and `[sinks.NAME]` the name may be left out. Parts
(`strategy.inner`, ...) are read by `orchestrator.plan.registry`; a flag may set one whole or one
option of it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.core.errors import PlanError, PluginError
from orchestrator.core.plan import EMBEDDED_MODELS, FewShot, Model, Plan
from orchestrator.core.values import PluginSpec, Sampling
from orchestrator.plan import auto, registry
from orchestrator.plan.check import check_plan
from orchestrator.plan.execution import Execution, Supervision, rename_former_tables
from orchestrator.plan.file.recipes import RECIPES
from orchestrator.plan.file.sources import (
    Location,
    apply_recipe,
    placed,
    recipe_named,
    require_path,
    source_of,
    title_of,
)
from orchestrator.plan.keys import (
    POOL,
    TABLES,
    Columns,
    OutputFormat,
    PlanFault,
    TopLevel,
    read_budgets,
    read_prices,
    read_section,
    refuse_unknown,
    table_of,
)
from orchestrator.plan.keys.flags import Table, apply_flags, as_list, as_table, expand_short_forms

_TOP = (*(f.name for f in dataclasses.fields(TopLevel)), *TABLES)


@dataclass(frozen=True, slots=True)
class LoadedPlan:
    """A checked plan with its execution; `problems` and `out` are None if they are not set.

    `problems` is a path, or the text of what is no path; `columns` tells how its rows are read, and
    `recipe` is the name of the recipe that set it, or "". `out` defaults to `runs/` plus the plan
    file's name without its suffix, or else the name of the problems. With `format` "auto", an
    OpenAI batch also gets a batch output next to results.jsonl.
    """

    plan: Plan
    execution: Execution
    problems: Location | None
    out: Path | None
    format: OutputFormat
    vote: PluginSpec | None = None  # the selector, where the plan names one
    chosen: bool = False  # whether the strategy behind `auto` was chosen by this very call
    notices: tuple[str, ...] = ()  # former names that the plan still uses, and likely mistakes
    columns: Columns = Columns()
    recipe: str = ""
    origin: str = ""  # where `problems` was copied from, if it is a copy
    override: bool = True  # whether rows of OpenAI batches may override the plan


def load_plan(
    path: str | Path | None,
    overrides: Mapping[str, str] | None = None,
    served: Table | None = None,
) -> LoadedPlan:
    """Return the plan of a file, or the default plan, with flags applied and everything checked.

    `overrides` maps dotted keys to texts as typed on a command line. An override that names another
    plugin or model drops the options, or the revision, of the one in the file. `served` are the
    tables of a running service's plan: its engine takes the place of the file's, and without a file
    its plan is the default. PlanError for any mistake, with the file and line of a syntax error.
    """
    flags = dict(overrides or {})
    try:
        return _load(None if path is None else Path(path), flags, served)
    except PlanFault as error:
        source = "" if path is None else str(path)
        raise PlanError(f"{_place(source, flags, error.key)}{error}") from error
    except RecursionError as error:
        where = "the command line" if path is None else str(path)
        raise PlanError(f"{where}: its tables or lists are nested too deeply for a plan") from error


def _load(path: Path | None, flags: Mapping[str, str], served: Table | None) -> LoadedPlan:
    tree = _default_tables(flags, served) if path is None else read_tables(path)
    notices = rename_former_tables(tree, str(path))
    expand_short_forms(tree)
    apply_flags(tree, flags)
    if served is not None:
        running = table_of(tree.setdefault("execution", {}), "execution")
        tree["execution"] = running | {"engine": served["execution"]["engine"]}
    recipe, place = recipe_named(tree.get("problems"))
    if recipe:
        apply_recipe(RECIPES[recipe], tree)
        tree["problems"] = source_of(RECIPES[recipe], place)
    files = read_section("", {k: tree.pop(k) for k in ("problems", "out", "format") if k in tree})
    if "://" in files.get("out", ""):
        raise PlanFault("out", f"out = {files['out']!r} is an address; name a local directory")
    for key in ("problems", "out"):
        require_path(key, files.get(key, ""))
    columns = Columns(**read_section("columns", table_of(tree.pop("columns", {}), "columns")))
    if columns.media and path and "columns.media" not in flags:
        columns = replace(columns, media=str(path.parent / columns.media))
    batch = read_section("batch", table_of(tree.pop("batch", {}), "batch"))
    execution, prices = _execution(tree), tree.pop("prices", {})
    few_shot = read_section("few_shot", table_of(tree.pop("few_shot", {}), "few_shot"))
    plan, vote = _plan(tree)
    folder = path.parent if path and "few_shot.file" not in flags else None
    plan = replace(plan, few_shot=_few_shot(few_shot, columns, folder))
    plan = replace(plan, models=_with_templates(plan.models, path))
    execution = replace(execution, prices=read_prices(prices, plan.models))
    complete = plan
    # an engine or a verifier that does not load is `check_plan`'s to report
    with contextlib.suppress(PluginError):
        complete = auto.resolve(plan, execution, vote)
    check_plan(complete, execution)
    folder = path.parent if path and "problems" not in flags else None
    problems = placed(files["problems"], folder) if files.get("problems") else None
    title = path.stem if path else recipe or (title_of(problems) if problems else "")
    out = Path(files["out"]) if files.get("out") else Path("runs") / title if title else None
    notices += [*_former_option_notices(plan), *_stop_notices(plan.sampling)]
    return LoadedPlan(
        complete,
        execution,
        problems,
        out,
        files.get("format", "auto"),
        vote,
        complete is not plan,
        tuple(notices),
        columns,
        recipe,
        override=batch.get("override", True),
    )


def _default_tables(flags: Mapping[str, str], served: Table | None) -> Table:
    """Return the tables where there is no file: none, or those of a service's plan.

    Beside a recipe they are its models alone, because a key that is set wins over a recipe's; and
    another strategy brings its own selector.
    """
    if served is None:
        return {}
    if recipe_named(flags.get("problems"))[0]:
        return {"models": copy.deepcopy(served["models"])}
    left_out = {"problems", "out", "batch", "sinks", *(["selector"] if "strategy" in flags else [])}
    return {k: copy.deepcopy(value) for k, value in served.items() if k not in left_out}


def _few_shot(values: Table, columns: Columns, folder: Path | None) -> FewShot:
    """Return the examples' file in its place, with the columns of the problems as its own."""
    if not values.get("file"):
        return FewShot(**values)
    given = dataclasses.asdict(columns).items()
    own = {name: value for name, value in given if value} | dict(values.get("columns", {}))
    require_path("few_shot.file", values["file"])
    file = str(placed(values["file"], folder))
    return FewShot(**{**values, "file": file, "columns": own})


def _with_templates(models: Mapping[str, Model], path: Path | None) -> dict[str, Model]:
    """Return the models with the texts of their chat templates instead of their files."""

    def text(name: str, template: str) -> str:
        if not template or "{{" in template or "{%" in template:
            return template
        file = path.parent / template if path else Path(template)
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # no UTF-8, or a null character in the name
            key = f"models.{name}.chat_template"
            raise PlanFault(key, f"{key} = {template!r}: {file} cannot be read: {error}") from error

    return {
        name: replace(model, chat_template=text(name, model.chat_template))
        for name, model in models.items()
    }


def _place(source: str, flags: Mapping[str, str], key: str) -> str:
    """Return the place where a key was written, as the prefix of a message."""
    if any(key == flag or key.startswith(f"{flag}.") for flag in flags):
        return "on the command line: "
    # one plugin's options, written in both
    if any(flag.startswith(f"{key}.") for flag in flags):
        return f"{source} with the command line: " if source else "on the command line: "
    return f"{source}: " if source else ""


def read_tables(path: Path) -> Table:
    """Return the tables of a plan file, unchecked; PlanError when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return tomllib.loads(text)
    except FileNotFoundError as error:
        raise PlanError(f"there is no plan file {path}") from error
    except IsADirectoryError as error:
        raise PlanError(f"{path} is a directory; name the plan file in it") from error
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PlanError(
            f"{path} is not a plan: TOML is UTF-8, and byte {error.start + 1} is not"
        ) from error
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line = match[1] if match else str(text.rstrip().count("\n") + 1)
        what = re.sub(r" \(at .*\)$", "", str(error))
        column = f" (column {match[2]})" if match else ""
        raise PlanError(
            f"{path}:{line}: {what}{column}; put texts in quotes, and write each key only once"
        ) from error


def _former_option_notices(plan: Plan) -> list[str]:
    """Return a notice for each option of the strategy that is written with its former name."""
    former = registry.former_options(registry.plugin_class("strategies", plan.strategy.name))
    return [
        f"strategy.{old} is now called strategy.{new}"
        for old, new in former.items()
        if old in plan.strategy.options
    ]


def _stop_notices(sampling: Sampling) -> list[str]:
    """Return a notice if attempts may continue with a question of their own."""
    before = sampling.template.partition("{prompt}")[0]
    label = before.rpartition("\n")[2].strip()
    is_worked = label.endswith(":") and before.count(f"\n{label}") > 1
    if not is_worked or any(label in stop for stop in sampling.stop):
        return []
    stop = [f"\n{label}"]
    notice = (
        "sampling.template has worked examples: a model may continue with another one, whose "
        f"answer then counts; set sampling.stop = {stop!r}"
    )
    return [notice]


def _execution(tree: Table) -> Execution:
    table = table_of(tree.pop("execution", {}), "execution")
    engine = _spec(table.pop("engine", Execution().engine.name), "execution.engine")
    supervision = table_of(tree.pop("supervision", {}), "supervision")
    tree["budget"], job_budget = read_budgets(tree.get("budget", {}))
    sinks = tuple(_spec(sink, "sinks") for sink in as_list(tree.pop("sinks", [])))
    return Execution(
        engine,
        **read_section("execution", table),
        supervision=Supervision(**read_section("supervision", supervision)),
        budget=job_budget,
        sinks=sinks,
    )


def _plan(tree: Table) -> tuple[Plan, PluginSpec | None]:
    """Return the plan of what remains of the tree, and the selector if the tree names one."""
    sampling = table_of(tree.pop("sampling", {}), "sampling")
    values: Table = {
        "sampling": Sampling(**read_section("sampling", sampling)),
        "budget": tree.pop("budget"),
    }
    values |= {k: _spec(tree.pop(k), k) for k in ("strategy", "selector") if k in tree}
    if "models" in tree:
        pools = table_of(tree.pop("models"), "models")
        values["models"] = {name: _model(pools[name], f"models.{name}") for name in pools}
    domains = table_of(tree.pop("domains", {}), "domains")
    values["domains"] = {name: _spec(domains[name], f"domains.{name}", name) for name in domains}
    verifiers = as_list(tree.pop("verifiers", []))
    values["verifiers"] = tuple(_spec(verifier, "verifiers") for verifier in verifiers)
    refuse_unknown(tree, _TOP, "")
    values |= read_section("", tree)
    vote: PluginSpec | None = values.get("selector")
    if "strategy" in values and vote is None:
        with contextlib.suppress(PluginError):  # `check_plan` reports it, and where it was written
            values["selector"] = registry.own_selector(values["strategy"])
    return Plan(**values), vote


def _model(value: object, key: str) -> Model:
    table = {"path": value} if isinstance(value, str) else table_of(value, key)
    if "path" not in table:
        raise PlanFault(
            key,
            f"[{key}] has no path; write that of an embedded model "
            f"({', '.join(EMBEDDED_MODELS)}), a local folder or a hub name",
        )
    return Model(**read_section(POOL, table, key))


def _spec(value: object, key: str, default_name: str | None = None) -> PluginSpec:
    table = table_of(as_table(value), key)
    name = table.pop("name", default_name)
    if not isinstance(name, str):
        raise PlanFault(key, f"[{key}] must name its plugin: write name = '...'")
    try:
        json.dumps(table)  # as the fingerprint does; it refuses dates
    except (TypeError, ValueError) as error:
        raise PlanFault(
            key,
            f"[{key}]: {error}; options are texts, numbers, true, false, lists and tables",
        ) from error
    return PluginSpec(name, table)
