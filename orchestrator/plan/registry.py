"""Maps names to plugins: one table per group, filled from entry points and decorators.

The one rule: importing this module loads no plugin; an entry point is loaded when its name is
needed. Built-in plugins are declared in pyproject.toml like all others. Not covered: whether plan
and engine meet a plugin's needs (`orchestrator.plan.check`).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from orchestrator.core.errors import PluginError
from orchestrator.core.values import Capability, PluginSpec
from orchestrator.plan.keys import FieldInfo, field_infos, unknown_options
from orchestrator.plan.keys import near as near
from orchestrator.plan.spec_syntax import one_spec, require_list_or_one, table_spec

GROUPS = ("strategies", "selectors", "verifiers", "domains", "engines", "similarity", "sinks")
_FORMER_GROUPS = {"similarity": "judges"}  # version 0.1; plugins packaged for it are still found
_decorated: dict[str, dict[str, type]] = {group: {} for group in GROUPS}
C = TypeVar("C", bound=type)


def _register(group: str, name: str) -> Callable[[C], C]:
    def decorate(cls: C) -> C:
        _require_dataclass(cls, group, name)
        # the same class again is a cell of a notebook run twice, or a module reloaded
        known = _decorated[group].get(name, cls)
        if name in _entry_points(group) or _class_path(known) != _class_path(cls):
            raise PluginError(
                f"{group} plugin {name!r} is declared twice: by {distribution(group, name)} and by "
                f"{_class_path(cls)}"
            )
        _decorated[group][name] = cls
        return cls

    return decorate


def _class_path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def strategy(name: str) -> Callable[[C], C]:
    """Return a decorator that registers a strategy class that is not packaged."""
    return _register("strategies", name)


def selector(name: str) -> Callable[[C], C]:
    """Return a decorator that registers a selector class that is not packaged."""
    return _register("selectors", name)


def verifier(name: str) -> Callable[[C], C]:
    """Return a decorator that registers a verifier class that is not packaged."""
    return _register("verifiers", name)


def domain(name: str) -> Callable[[C], C]:
    """Return a decorator that registers a domain class that is not packaged."""
    return _register("domains", name)


def engine(name: str) -> Callable[[C], C]:
    """Return a decorator that registers an engine class that is not packaged."""
    return _register("engines", name)


def similarity(name: str) -> Callable[[C], C]:
    """Return a decorator that registers a similarity class that is not packaged."""
    return _register("similarity", name)


def sink(name: str) -> Callable[[C], C]:
    """Return a decorator that registers a sink class that is not packaged."""
    return _register("sinks", name)


def names(group: str) -> list[str]:
    """Return the names of a group's plugins, sorted."""
    return sorted({*_entry_points(group), *_decorated[group]})


def plugin_class(group: str, name: str) -> type:
    """Return a plugin's class.

    PluginError when it is unknown (with the near match), ambiguous, or does not import.
    """
    if name in _decorated[group]:
        return _decorated[group][name]
    points = _entry_points(group).get(name, [])
    if not points:
        raise PluginError(
            f"there is no {singular(group)} {name!r}{near(name, names(group))}; "
            f"there are: {', '.join(names(group)) or 'none'}"
        )
    if len(points) > 1:
        raise PluginError(
            f"{singular(group)} {name!r} is declared twice: by "
            f"{' and by '.join(map(_distribution, points))}; uninstall one of them"
        )
    [point] = points
    try:
        cls = point.load()
    except Exception as error:  # importing a third-party module may raise anything
        hidden = hidden_package(point.module.partition(".")[0])
        reason = f"{hidden[0]}; {hidden[1]}" if hidden else f"{type(error).__name__}: {error}"
        raise PluginError(
            f"{singular(group)} {name!r} of {_distribution(point)} does not load: {reason}"
        ) from error
    _require_dataclass(cls, group, name)
    return cls  # type: ignore[no-any-return]  # _require_dataclass has checked that it is a class


def hidden_package(package: str) -> tuple[str, str] | None:
    """Return why Python does not find one of our import packages, and the remedy; else None.

    Other distributions also use the name `verifiers`. Installed from a wheel, ours shares the
    folder with theirs and both work; an editable installation is elsewhere and is hidden.
    """
    ours = Path(__file__).resolve().parents[2] / package
    spec = PathFinder.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not ours.is_dir() or ours in {Path(folder).resolve() for folder in folders}:
        return None
    others = sorted({*packages_distributions().get(package, ())} - {"leadline"})
    both = " and ".join(["leadline", *(f"{name} {version(name)}" for name in others)])
    place = ", ".join(folders) or (spec.origin if spec else None) or "nothing"
    reason = (
        f"{both} {'both bring' if others else 'brings'} the import package {package!r}, and Python "
        f"finds {place} instead of {ours}"
    )
    wheel = f"install leadline from a wheel (`pip install {ours.parent}`, without -e)"
    removal = f", or: pip uninstall {' '.join(others)}" if others else ""
    return reason, f"{wheel}, or use a separate environment{removal}"


def load(group: str, spec: PluginSpec, at: str = "") -> Any:
    """Return a plugin built with its options and parts.

    PluginError naming field, value and remedy when an option is unknown or wrong. `at` is the
    dotted path of a part, such as "strategy.inner.select"; errors about the part start with it.
    """
    prefix = f"{at}: " if at else ""
    try:
        cls = plugin_class(group, spec.name)
    except PluginError as error:
        raise PluginError(f"{prefix}{error}") from error
    kind = singular(group)
    return build(cls, spec.options, f"{prefix}{kind} {spec.name!r}", at or kind)


def load_origin(origin: str, options: Mapping[str, object]) -> Any:
    """Return a plugin of the class "module:Class", which a decorator registered elsewhere."""
    module, _, qualname = origin.partition(":")
    return build(getattr(importlib.import_module(module), qualname), options, origin)


def decorated_origin(group: str, name: str) -> str:
    """Return the origin that `load_origin` loads in another process; "" for a packaged plugin."""
    cls = _decorated[group].get(name)
    return _class_path(cls) if cls else ""


def build(cls: type, options: Mapping[str, object], what: str, at: str = "") -> Any:
    """Return `cls(**options)`, converted and checked against its fields; PluginError otherwise.

    The paths of its parts start with `at`.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    options = {former_options(cls).get(key, key): value for key, value in options.items()}
    groups = parts(cls)
    own = {key: None if key in groups else value for key, value in options.items()}
    for place, key, known in unknown_options(cls, own):
        raise PluginError(
            f"{what}{f': {place}' if place else ''} has no option {key!r}{near(key, known)}; it "
            f"has: {', '.join(known) or 'none'}"
        )
    values = {k: v for k, v in options.items() if k not in groups or v is not None}
    for name, group in groups.items():
        if name in values:
            path = f"{at}.{name}" if at else name
            require_list_or_one("tuple" in str(fields[name].type), values[name], path)
            values[name] = _load_part(group, values[name], path, fields[name].default)
    try:
        plugin: Any = msgspec.convert(values, cls)
        defaults = {
            name: _load_part(group, getattr(plugin, name), name)
            for name, group in groups.items()
            if name not in values
        }
        return dataclasses.replace(plugin, **defaults) if defaults else plugin
    except PluginError:
        raise
    # NameError: an annotation that does not resolve
    except (msgspec.ValidationError, ValueError, TypeError, NameError) as error:
        raise PluginError(f"{what}: {_explanation(cls, values, str(error))}") from error


def parts(cls: object) -> Mapping[str, str]:
    """Return the options of a plugin class that are plugins or lists of plugins, by group."""
    return getattr(cls, "parts", {})


def former_options(cls: object) -> Mapping[str, str]:
    """Return the names that options had in earlier versions, with those of today."""
    return getattr(cls, "former_options", {})


def _load_part(group: str, value: object, at: str, default: object = None) -> Any:
    """Return a part loaded from its value in a plan: a text, a table or a list of these.

    A table without a name sets options of the default plugin; "" means no plugin.
    """
    if value is None or value == "":
        return None
    if isinstance(value, list | tuple):
        return tuple(_load_part(group, item, f"{at}[{i}]") for i, item in enumerate(value))
    if isinstance(value, str):
        value = one_spec(at, value)
    if isinstance(value, Mapping):
        value = table_spec(value, at, default)
    if isinstance(value, PluginSpec):
        return load(group, value, at)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        raise PluginError(f"{at} = {value!r}: it must be a {singular(group)}, by its name")
    return value


def walk_parts(plugin: object, at: str) -> Iterator[tuple[str, object]]:
    """Yield the plugin at path `at` and all its parts, nested ones included, with their paths."""
    yield at, plugin
    for name in parts(type(plugin)):
        part = getattr(plugin, name)
        if isinstance(part, tuple):
            for place, item in enumerate(part):
                yield from walk_parts(item, f"{at}.{name}[{place}]")
        elif part is not None:
            yield from walk_parts(part, f"{at}.{name}")


def spec_of(group: str, plugin: object) -> PluginSpec:
    """Return the spec that loads to this plugin: its name and its non-default options.

    PluginError when the plugin's class is not registered.
    """
    cls = type(plugin)
    name = _registered_name(group, cls)
    options = {}
    for field in (f for f in dataclasses.fields(cls) if f.init):  # type: ignore[arg-type]  # every plugin is a dataclass
        value = getattr(plugin, field.name)
        if field.name in parts(cls):
            options[field.name] = _part_table(parts(cls)[field.name], value)
        elif value != field.default and (
            field.default_factory is dataclasses.MISSING or value != field.default_factory()
        ):
            options[field.name] = value
    return PluginSpec(name, options)


def _registered_name(group: str, cls: type) -> str:
    for name in names(group):
        points = _entry_points(group).get(name, ())
        if _decorated[group].get(name) is cls or _class_path(cls) in {p.value for p in points}:
            return name
    raise PluginError(
        f"{_class_path(cls)} is not a registered {singular(group)}; plans refer to plugins by name"
    )


def _part_table(group: str, value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return [_part_table(group, item) for item in value]
    spec = spec_of(group, value)
    return {"name": spec.name, **spec.options}


def _explanation(cls: type, values: Mapping[str, object], error: str) -> str:
    """Return a msgspec error as a message with the option, its value and its requirement."""
    pattern = r"(?:Expected|Invalid enum value) .* - at `\$\.(\w+)(?:\[\d+\])?`"
    match = re.fullmatch(pattern, error, re.DOTALL)  # an error deeper inside names its own place
    info = next((i for i in _options(cls) if match and i.name == match[1]), None)
    if info is None or info.name not in values:
        return error
    return f"{info.name} = {values[info.name]!r}: it must be {info.expected}"


def options(group: str, name: str) -> list[FieldInfo]:
    """Return a plugin's options: its own as declared, then those it shares with others."""
    cls = plugin_class(group, name)
    classes = [vars(c).get("__annotations__", {}) for c in cls.__mro__]

    def distance(option: FieldInfo) -> int:
        return next(i for i, declared in enumerate(classes) if option.name in declared)

    return sorted(_options(cls), key=distance)


def _options(cls: type) -> list[FieldInfo]:
    return [_as_part(info, parts(cls).get(info.name)) for info in field_infos(cls)]


def _as_part(info: FieldInfo, group: str | None) -> FieldInfo:
    """Return an option with the kind of its plugin as its type, if the option is a plugin."""
    if group is None:
        return info
    kind = f"list of {group}" if "tuple" in info.type else singular(group)
    return dataclasses.replace(info, type=kind)


def distribution(group: str, name: str) -> str:
    """Return the distribution that declares a plugin, with its version; its class if decorated."""
    points = _entry_points(group).get(name, ())
    return " and ".join(map(_distribution, points)) or decorated_origin(group, name)


def needs(plugin: object) -> frozenset[Capability]:
    """Return the engine capabilities that a plugin and its parts need."""
    return frozenset(_attributes(plugin, "needs"))


def metrics(plugin: object) -> tuple[str, ...]:
    """Return the metrics that a plugin and its parts need of each trace."""
    return tuple(dict.fromkeys(_attributes(plugin, "metrics")))


def verdicts(plugin: object) -> tuple[str, ...]:
    """Return the names of the verifiers whose verdicts a plugin and its parts read."""
    return tuple(dict.fromkeys(_attributes(plugin, "verifiers")))


def _attributes(plugin: object, attribute: str) -> Iterator[Any]:
    for _, part in walk_parts(plugin, ""):
        yield from getattr(part, attribute, ())


def own_selector(spec: PluginSpec) -> PluginSpec:
    """Return a strategy's own selector (its attribute `selector`), else the majority vote.

    The options of that selector may include one of the strategy's parts, which is written as a
    table. PluginError as in `load`.
    """
    own = getattr(load("strategies", spec), "selector", None)
    if not isinstance(own, PluginSpec):
        return PluginSpec("majority")
    groups = parts(plugin_class("selectors", own.name))
    return PluginSpec(
        own.name,
        {
            key: _part_table(groups[key], value) if _is_plugin(value) and key in groups else value
            for key, value in own.options.items()
        },
    )


def _is_plugin(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, PluginSpec | type)


def singular(group: str) -> str:
    """Return the word for one plugin of a group."""
    return {"strategies": "strategy"}.get(group, group.removesuffix("s"))


@functools.cache
def _entry_points(group: str) -> dict[str, list[EntryPoint]]:
    table: dict[str, list[EntryPoint]] = {}
    groups = (group, _FORMER_GROUPS[group]) if group in _FORMER_GROUPS else (group,)
    for point in (p for name in groups for p in entry_points(group=f"orchestrator.{name}")):
        points = table.setdefault(point.name, [])
        # a folder may be listed twice on sys.path
        if (point.value, _distribution(point)) not in [(p.value, _distribution(p)) for p in points]:
            points.append(point)
    return table


def _distribution(point: EntryPoint) -> str:
    dist = point.dist
    return f"{dist.name} {dist.version}" if dist is not None else point.value


def _require_dataclass(cls: object, group: str, name: str) -> None:
    params = getattr(cls, "__dataclass_params__", None)
    if not isinstance(cls, type) or params is None or not params.frozen:
        raise PluginError(
            f"{singular(group)} {name!r} must be a frozen dataclass whose fields are its options; "
            f"{cls!r} is not"
        )
