"""How commands read their arguments.

A command is a dataclass of options and a function that takes it. Its options may be written with dashes or with
underscores, take several values after one name (`-i "first text" "second text"`), and come from a YAML file
(`--config`), over which the command line wins.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import re
import typing
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

from attriflow.errors import unknown

T = TypeVar("T")
_YES, _NO = ("true", "yes", "y", "t", "1"), ("false", "no", "n", "f", "0")
_WORDS: dict[str, Any] = {"True": True, "False": False, "None": None}
_OPTION = re.compile(r"--?[A-Za-z][\w-]*(=.*)?", re.DOTALL)


class Command(TyperCommand):
    """A command whose arguments are rewritten into what typer reads, and whose help has panels."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """What typer gives."""
        super().__init__(*arguments, **{**settings, "rich_markup_mode": "rich"})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the rewritten arguments."""
        return super().parse_args(ctx, rewrite(args, self.get_params(ctx)))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Help in which square brackets are text: rich would take `[app]` for markup and leave it out."""
        shown = _literal(self)
        shown.params = [_literal(p) for p in self.params]
        super(Command, shown).format_help(ctx, formatter)


def _literal(part: T) -> T:
    """A copy of a command or an option whose help rich prints as it stands."""
    from rich.markup import escape

    out: Any = copy.copy(part)
    out.help = escape(getattr(part, "help", None) or "")
    return out


def add_command(app: typer.Typer, name: str, options: type[T], run: Callable[[T], None], **settings: Any) -> None:
    """Register a command: the fields of a dataclass are its options, the docstring of `run` is its help."""

    def call(**given: Any) -> None:
        run(options(**given))

    hints = typing.get_type_hints(options, include_extras=True)
    own = inspect.get_annotations(options)  # what only this command has comes first in its help
    ordered = sorted(dataclasses.fields(options), key=lambda f: f.name not in own)  # type: ignore[arg-type]
    call.__annotations__ = hints
    call.__doc__ = run.__doc__
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=hints[f.name],
                default=inspect.Parameter.empty if f.default is dataclasses.MISSING else f.default,
            )
            for f in ordered
        ]
    )
    app.command(name, cls=Command, **settings)(call)


def rewrite(arguments: Iterable[str], parameters: Iterable[Any]) -> list[str]:
    """Arguments with dashes in option names, one name per value, and flags without values.

    Where a command has arguments beside its options, a word after a flag or after an option's value is one of those.

    Args:
        arguments: As typed.
        parameters: Click's parameters of the command.
    """
    parameters = list(parameters)
    known = {name: p for p in parameters if p.param_type_name == "option" for name in (*p.opts, *p.secondary_opts)}
    only_options = all(p.param_type_name == "option" for p in parameters)
    rest, out = deque(arguments), list[str]()
    while rest:
        word = rest.popleft()
        typed, equals, value = word.partition("=")
        name = _dashed(typed)
        option = known.get(name)
        if option is None:
            out.append(word)
        elif option.is_flag:
            if equals:
                rest.appendleft(value)
            told = (equals or only_options) and rest and rest[0].lower() in (*_YES, *_NO)
            given = rest.popleft().lower() if told else "true"
            if given in _YES:
                out.append(name)
        else:
            values = [value] if equals else [rest.popleft()] if rest else []
            while only_options and option.multiple and rest and not _OPTION.fullmatch(rest[0]):
                values.append(rest.popleft())
            out += [part for v in values for part in (name, v)] or [name]
    return out


def _dashed(name: str) -> str:
    return name.replace("_", "-") if name.startswith("--") else name


def read_config(ctx: typer.Context, path: str | None) -> str | None:
    """Callback of `--config`: what the file says becomes the default of the options.

    For Inseq's sake, `attribute-dataset --config NAME` with a name that is no YAML file is the data set's
    configuration.
    """
    if path is None or ctx.resilient_parsing:
        return path
    names = {_dashed(n).lstrip("-"): p for p in ctx.command.params for n in (*p.opts, p.name or "")}
    if Path(path).suffix.lower() not in (".yaml", ".yml", ".json"):
        if "dataset-config" not in names:
            raise typer.BadParameter(f"{path} is not a .yaml, .yml or .json file")
        ctx.default_map = {"dataset_config": path}
        return None
    settings: dict[str, Any] = {}
    for key, value in _read_yaml(path).items():
        name = str(key).replace("_", "-").lstrip("-")
        if name not in names or name in ("config", "help"):
            raise typer.BadParameter(f"{path}: {unknown('setting', str(key), (n.replace('-', '_') for n in names))}")
        parameter = names[name]
        if value is not None:
            multiple = getattr(parameter, "multiple", False)
            settings[parameter.name or ""] = [_typed(v) for v in _listed(value)] if multiple else _typed(value)
    ctx.default_map = settings
    return path


def _read_yaml(path: str) -> Mapping[Any, Any]:
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, Mapping):
        raise typer.BadParameter(f"{path} must hold settings by name, not {type(content).__name__}")
    return content or {}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _typed(value: Any) -> Any:
    """A value as it would be typed on the command line."""
    if isinstance(value, bool):
        return value
    return json.dumps(value) if isinstance(value, (Mapping, list)) else str(value)


def json_object(value: str) -> dict[str, Any]:
    """Parser of options that hold nested settings."""
    try:
        found = json.loads(value)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"{value!r} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise typer.BadParameter(f'{value!r} is JSON, but not an object such as {{"name": 1}}')
    return found


def assignments(values: Iterable[str]) -> dict[str, Any]:
    """`name=value` pairs; a value is JSON or one of Python's words where it can be, else a text.

    Texts become values of other types here and nowhere else: parts check the types of their options.
    """
    found: dict[str, Any] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not name=value")
        try:
            read = _WORDS[value] if value in _WORDS else json.loads(value)
        except json.JSONDecodeError:
            read = value
        found[name.strip().replace("-", "_")] = read
    return found
