"""Names to plugins: one table per group, filled from entry points and decorators; duplicates
refused, options validated.

Importing this file loads no plugin: an entry point is loaded when its name is asked for. Built-ins
are declared like everybody's, in pyproject.toml.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

import msgspec

from orchestrator.core.errors import PluginError
from orchestrator.core.values import Capability, PluginSpec
from orchestrator.plan.keys import FieldInfo, field_infos
from orchestrator.plan.spec_syntax import one_spec

GROUPS = ("strategies", "selectors", "verifiers", "domains", "engines", "similarity")
_FORMER_GROUPS = {"similarity": "judges"}  # version 0.1; plugins packaged for it are still found
_decorated: dict[str, dict[str, type]] = {group: {} for group in GROUPS}
C = TypeVar("C", bound=type)


def _register(group: str, name: str) -> Callable[[C], C]:
    def decorate(cls: C) -> C:
        _require_dataclass(cls, group, name)
        # the same class again is a cell of a notebook run twice, or a module reloaded
        known = _decorated[group].get(name, cls)
        if name in _entry_points(group) or (known.__module__, known.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            taken = _origin(group, name)
            raise PluginError(
                f"{group} plugin {name!r} is declared twice: by {taken} and by {cls.__module__}:{cls.__qualname__}"
            )
        _decorated[group][name] = cls
        return cls

    return decorate


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


def names(group: str) -> list[str]:
    """Return the names of a group's plugins, sorted."""
    return sorted({*_entry_points(group), *_decorated[group]})


def plugin_class(group: str, name: str) -> type:
    """Return a plugin's class.

    PluginError when it is unknown (with the near match), ambiguous, or does not import.
    """
    if name in _decorated[group]:
        return _decorated[group][name]
    found = _entry_points(group).get(name)
    if found is None:
        raise PluginError(
            f"there is no {singular(group)} {name!r}{near(name, names(group))}; there are: {', '.join(names(group)) or 'none'}"
        )
    if len(found) > 1:
        raise PluginError(
            f"{singular(group)} {name!r} is declared twice: by {' and by '.join(map(_named, found))}; uninstall one of them"
        )
    try:
        cls = found[0].load()
    except Exception as error:  # importing a stranger's module may raise anything
        raise PluginError(
            f"{singular(group)} {name!r} of {_named(found[0])} does not load: {type(error).__name__}: {error}"
        ) from error
    _require_dataclass(cls, group, name)
    return cls  # type: ignore[no-any-return]  # _require_dataclass has checked that it is a class


def load(group: str, spec: PluginSpec, at: str = "") -> Any:
    """Return a plugin built with its options and parts. PluginError naming field, value and remedy
    when an option is unknown or wrong.

    `at` is the dotted path of a part, such as "strategy.inner.select": an error about a part begins
    with it.
    """
    if not at:
        return build(
            plugin_class(group, spec.name),
            spec.options,
            f"{singular(group)} {spec.name!r}",
            singular(group),
        )
    try:
        cls = plugin_class(group, spec.name)
    except PluginError as error:
        raise PluginError(f"{at}: {error}") from error
    return build(cls, spec.options, f"{at}: {singular(group)} {spec.name!r}", at)


def load_origin(origin: str, options: Mapping[str, object]) -> Any:
    """Return a plugin built from "module:Class", for one registered by decorator in another
    process.
    """
    module, _, qualname = origin.partition(":")
    return build(getattr(importlib.import_module(module), qualname), options, origin)


def decorated_origin(group: str, name: str) -> str:
    """Return "module:Class" of a plugin registered by decorator, for `load_origin` in another
    process; "" for a packaged one.
    """
    cls = _decorated[group].get(name)
    return f"{cls.__module__}:{cls.__qualname__}" if cls else ""


def build(cls: type, options: Mapping[str, object], what: str, at: str = "") -> Any:
    """Return `cls(**options)`, converted and checked against its fields; PluginError otherwise.

    Paths of its parts begin with `at`.
    """
    fields = {f.name for f in dataclasses.fields(cls) if f.init}
    options = {former_options(cls).get(key, key): value for key, value in options.items()}
    for key in options:
        if key not in fields:
            raise PluginError(
                f"{what} has no option {key!r}{near(key, fields)}; it has: {', '.join(sorted(fields)) or 'none'}"
            )
    groups = parts(cls)
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
    plain = {key: value for key, value in options.items() if key not in groups or value is not None}
    given = {
        name: _part(group, plain[name], f"{at}.{name}" if at else name, defaults[name])
        for name, group in groups.items()
        if name in plain
    }
    try:
        plugin: Any = msgspec.convert({**plain, **given}, cls, strict=False)
        own = {
            name: _part(group, getattr(plugin, name), name)
            for name, group in groups.items()
            if name not in given
        }
        return dataclasses.replace(plugin, **own) if own else plugin
    except PluginError:
        raise
    # NameError: an annotation that does not resolve
    except (msgspec.ValidationError, ValueError, TypeError, NameError) as error:
        raise PluginError(f"{what}: {_explained(cls, plain, str(error))}") from error


def parts(cls: object) -> Mapping[str, str]:
    """Return the options of a plugin class that are plugins themselves, or lists of plugins, with
    their groups.
    """
    return getattr(cls, "parts", {})


def former_options(cls: object) -> Mapping[str, str]:
    """Return the names that options of a plugin class had in earlier versions, with those of today."""
    return getattr(cls, "former_options", {})


def _part(group: str, given: object, at: str, default: object = None) -> Any:
    """Return a part loaded from how a plan writes it: a text, a table (of the default plugin if it
    names none), a list; "" is no plugin.
    """
    if given == "":
        return None
    if isinstance(given, list | tuple):
        return tuple(_part(group, one, f"{at}[{place}]") for place, one in enumerate(given))
    if isinstance(given, str):
        given = one_spec(at, given)
    if isinstance(given, Mapping):
        given = _named_part(given, at, default)
    return load(group, given, at) if isinstance(given, PluginSpec) else given


def _named_part(table: Mapping[str, Any], at: str, default: object) -> PluginSpec:
    rest = {key: value for key, value in table.items() if key != "name"}
    name = table.get("name")
    if name is None and isinstance(default, str) and default:
        own = one_spec(at, default)
        return PluginSpec(own.name, {**own.options, **rest})
    if not isinstance(name, str) or not name:
        raise PluginError(
            f"{at} must name its plugin: write {at.rpartition('.')[2]} = {{name = '...', ...}}"
        )
    return PluginSpec(name, rest)


def composed(plugin: object, at: str) -> Iterator[tuple[str, object]]:
    """Yield a plugin and all its parts, theirs included, each with its dotted path; the plugin's
    own path is `at`.
    """
    yield at, plugin
    for name in parts(type(plugin)):
        held = getattr(plugin, name)
        if isinstance(held, tuple):
            for place, part in enumerate(held):
                yield from composed(part, f"{at}.{name}[{place}]")
        elif held is not None:
            yield from composed(held, f"{at}.{name}")


def spec_of(group: str, plugin: object) -> PluginSpec:
    """Return the spec from which a plugin of a group loads again: its name, and the options that
    differ from their defaults.

    PluginError when the plugin's class is not registered.
    """
    cls, options = type(plugin), {}
    where = f"{cls.__module__}:{cls.__qualname__}"
    packaged = (
        name
        for name, points in _entry_points(group).items()
        if any(point.value == where for point in points)
    )
    name = next((name for name, known in _decorated[group].items() if known is cls), None) or next(
        packaged, None
    )
    if name is None:
        raise PluginError(
            f"{where} is no registered {singular(group)}; give a plan its plugins by name"
        )
    for field in (f for f in dataclasses.fields(plugin) if f.init):  # type: ignore[arg-type]  # every plugin is a dataclass
        value = getattr(plugin, field.name)
        if field.name in parts(cls):
            options[field.name] = _part_table(parts(cls)[field.name], value)
        elif value != field.default and (
            field.default_factory is dataclasses.MISSING or value != field.default_factory()
        ):
            options[field.name] = value
    return PluginSpec(name, options)


def _part_table(group: str, value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return [_part_table(group, one) for one in value]
    spec = spec_of(group, value)
    return {"name": spec.name, **spec.options}


def _explained(cls: type, values: Mapping[str, object], error: str) -> str:
    """Return an error of msgspec with the option, its value and what it must be."""
    match = re.match(r"(?:Expected|Invalid enum value) .* - at `\$\.(\w+)", error, re.DOTALL)
    info = next((i for i in _options(cls) if match and i.name == match[1]), None)
    if info is None or info.name not in values:
        return error
    return f"{info.name} = {values[info.name]!r}: it must be {info.expected}"


def options(group: str, name: str) -> list[FieldInfo]:
    """Return a plugin's options in order of declaration."""
    return _options(plugin_class(group, name))


def _options(cls: type) -> list[FieldInfo]:
    return [_as_part(info, parts(cls).get(info.name)) for info in field_infos(cls)]


def _as_part(info: FieldInfo, group: str | None) -> FieldInfo:
    """Return an option with the kind of plugin that it takes as its type, if it takes one."""
    if group is None:
        return info
    kind = f"list of {group}" if "tuple" in info.type else singular(group)
    return dataclasses.replace(info, type=kind)


def distribution(group: str, name: str) -> str:
    """Return the distribution that declares a plugin, with its version, or the module of a
    decorated one.
    """
    found = _entry_points(group).get(name)
    return _named(found[0]) if found else _origin(group, name)


def needs(plugin: object) -> frozenset[Capability]:
    """Return the engine capabilities that a plugin and its parts state they need."""
    return frozenset(
        capability for _, part in composed(plugin, "") for capability in getattr(part, "needs", ())
    )


def metrics(plugin: object) -> tuple[str, ...]:
    """Return the metrics that a plugin and its parts state each trace must carry."""
    return tuple(
        dict.fromkeys(
            name for _, part in composed(plugin, "") for name in getattr(part, "metrics", ())
        )
    )


def verdicts(plugin: object) -> tuple[str, ...]:
    """Return the names of the verifiers whose verdicts a plugin and its parts state they read."""
    return tuple(
        dict.fromkeys(
            name for _, part in composed(plugin, "") for name in getattr(part, "verifiers", ())
        )
    )


def own_selector(spec: PluginSpec) -> PluginSpec:
    """Return the selector that a strategy states as its own (attribute `selector`), else the
    majority. PluginError as `load`.

    A strategy may name one of its parts, a selector, among the options of its own: it is written
    out.
    """
    own = getattr(load("strategies", spec), "selector", None)
    if not isinstance(own, PluginSpec):
        return PluginSpec("majority")
    groups = parts(plugin_class("selectors", own.name))
    return PluginSpec(
        own.name,
        {
            k: _part_table(groups[k], v) if _is_plugin(v) and k in groups else v
            for k, v in own.options.items()
        },
    )


def _is_plugin(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, PluginSpec | type)


def near(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the nearest known word, or ""."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def singular(group: str) -> str:
    """Return the word for one member of a group."""
    return {"strategies": "strategy"}.get(group, group.removesuffix("s"))


@functools.cache
def _entry_points(group: str) -> dict[str, list[EntryPoint]]:
    table: dict[str, list[EntryPoint]] = {}
    groups = (group, _FORMER_GROUPS[group]) if group in _FORMER_GROUPS else (group,)
    for point in (p for name in groups for p in entry_points(group=f"orchestrator.{name}")):
        known = table.setdefault(point.name, [])
        # a folder listed twice on sys.path
        if all((p.value, _named(p)) != (point.value, _named(point)) for p in known):
            known.append(point)
    return table


def _named(point: EntryPoint) -> str:
    dist = point.dist
    return f"{dist.name} {dist.version}" if dist is not None else point.value


def _origin(group: str, name: str) -> str:
    return decorated_origin(group, name) or " and ".join(
        map(_named, _entry_points(group).get(name, ()))
    )


def _require_dataclass(cls: object, group: str, name: str) -> None:
    params = getattr(cls, "__dataclass_params__", None)
    if not isinstance(cls, type) or params is None or not params.frozen:
        raise PluginError(
            f"{singular(group)} {name!r} must be a frozen dataclass, its fields its options; {cls!r} is not"
        )
