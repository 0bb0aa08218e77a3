"""The generated parts of the pages: commands from their help, profile keys from the schema, criteria from the registry.

``make pages`` rewrites what stands between ``<!-- begin: … -->`` and ``<!-- end -->`` in docs/, and the list of
commands in mkdocs.yml; a new command gets its page. tests/test_docs.py compares what is committed with what this gives.
"""

from __future__ import annotations

import inspect
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
BLOCK = re.compile(r"(?P<begin><!-- begin: (?P<what>[^>]*?) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
NAV = re.compile(r"(?P<begin>( *)# begin: commands\n).*?(?P<end> *# end\n)", re.DOTALL)
EXITS = re.compile(r"#\s*exits?\s+(?P<codes>\d(?:(?:,| or|, or)? \d)*)")


@dataclass(frozen=True)
class Example:
    """One command line of a command's help.

    Attributes:
        command: name of the command that it belongs to, for example ``targets show``.
        text: the line as the help has it, continued lines joined.
        argv: what follows ``edgeprune``.
        stdout: file that its output goes to, or None.
        exits: exit codes that it says it may end with; 0 unless it says ``# exits 4: why``.
    """

    command: str
    text: str
    argv: tuple[str, ...]
    stdout: str | None
    exits: frozenset[int]


def commands() -> dict[str, Any]:
    """Every command that can be run, by its words after ``edgeprune``, in the order of the help."""
    import typer

    from edgeprune.cli import app

    found: dict[str, Any] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        inner: Mapping[str, Any] = getattr(command, "commands", {})
        if words and (not inner or command.invoke_without_command):
            found[" ".join(words)] = command
        for name, one in inner.items():
            if not one.hidden:
                walk(one, (*words, name))

    walk(typer.main.get_command(app), ())
    return found


def examples(name: str, command: Any) -> list[Example]:
    """The examples in a command's help: lines that begin with ``edgeprune`` in a paragraph that begins with Example."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", f"{command.help or ''}\n\n{command.epilog or ''}"):
        intro = re.match(r"\s*Examples?:", paragraph)
        for line in paragraph[intro.end() :].splitlines() if intro else ():
            part = line.strip().removesuffix("\\").strip()
            if part.startswith("edgeprune "):
                lines.append(part)
            elif part and lines:
                lines[-1] += f" {part}"
    return [_example(name, line) for line in lines]


def _example(name: str, line: str) -> Example:
    argv = shlex.split(line, comments=True)[1:]
    said = EXITS.search(line)
    codes = frozenset(map(int, re.findall(r"\d", said["codes"]))) if said else frozenset({0})
    stdout = None
    if ">" in argv:
        argv, [stdout] = argv[: argv.index(">")], argv[argv.index(">") + 1 :]
    return Example(name, line, tuple(argv), stdout, codes)


def pages() -> dict[Path, str]:
    """Path to the text it should have, for every page and for mkdocs.yml."""
    known = commands()
    wanted = {path: path.read_text() for path in sorted(DOCS.rglob("*.md"))}
    for name in known:
        path = DOCS / "commands" / f"{name.split()[0]}.md"
        text = wanted.setdefault(path, f"# edgeprune {name.split()[0]}\n")
        if f"<!-- begin: command {name} -->" not in text:
            heading = f"\n## edgeprune {name}\n" if " " in name else ""
            wanted[path] = f"{text}{heading}\n<!-- begin: command {name} -->\n<!-- end -->\n"
    texts = {path: filled(text, known) for path, text in wanted.items()}
    texts[ROOT / "mkdocs.yml"] = NAV.sub(
        lambda found: found["begin"] + _nav(known, found[2]) + found["end"], (ROOT / "mkdocs.yml").read_text()
    )
    return texts


def filled(text: str, known: Mapping[str, Any]) -> str:
    """A page with its generated parts as they should be; ValueError for a part that nothing makes any more."""
    makers: dict[str, Callable[[], str]] = {
        "commands": lambda: _overview(known),
        "profile": profile_tables,
        "criteria": criteria_table,
        "sudoers": sudoers_part,
    }

    def fill(found: re.Match[str]) -> str:
        what = found["what"]
        if what.startswith("command ") and what.removeprefix("command ") in known:
            name = what.removeprefix("command ")
            return found["begin"] + command_part(name, known[name]) + found["end"]
        if what not in makers:
            raise ValueError(f"a page wants '{what}', which is gone; known: {', '.join([*makers, *known])}")
        return found["begin"] + makers[what]() + found["end"]

    return BLOCK.sub(fill, text)


def command_part(name: str, command: Any) -> str:
    """What a page says of a command that its help says too: purpose, usage, examples, arguments and options."""
    about = re.split(r"\n\s*\n", command.help or "")
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
    usage = " ".join(["edgeprune", name, *(["[OPTIONS]"] if options else []), *(_argument(one) for one in arguments)])
    parts = [
        "\n\n".join(" ".join(one.split()) for one in about if not re.match(r"\s*Examples?:", one)),
        f"```text\n{usage}\n```",
    ]
    if shown := examples(name, command):
        parts.append("```bash\n" + "\n".join(_wrapped(one.text) for one in shown) + "\n```")
    kinds = _kinds(command)
    if arguments:
        rows = [[f"`{_argument(one)}`", kinds[one.name], one.help or ""] for one in arguments]
        parts.append(_table(["argument", "value", "meaning"], rows))
    if options:
        rows = [[_names(one), kinds[one.name], _default(one), one.help or ""] for one in options]
        parts.append(_table(["option", "value", "default", "meaning"], rows))
    return "\n\n".join(parts) + "\n"


def profile_tables() -> str:
    """Every key of a target profile, from its JSON Schema."""
    from edgeprune.target import target_schema
    from edgeprune.target.schema import part_of

    schema = target_schema()
    top, inner = [], []
    for key, value in schema["properties"].items():
        part = part_of(schema, value)
        if not part:
            top.append(_key(key, value))
            continue
        about = value.get("description") or part.get("description", "")
        top.append([f"`{key}`", f"[keys below](#{key})", "", _line(about)])
        rows = [_key(f"{key}.{name}", one) for name, one in part["properties"].items()]
        inner.append(f"### {key}\n\n{_line(about)}\n\n" + _table(["key", "value", "default", "meaning"], rows))
    return "\n\n".join([_table(["key", "value", "default", "meaning"], top), *inner]) + "\n"


def criteria_table() -> str:
    """Every criterion that is registered when edgeprune starts."""
    from edgeprune.pruning.criteria import REGISTRY

    shipped = [one for one in REGISTRY.values() if one.score.__module__.startswith("edgeprune.")]
    rows = [[f"`{one.name}`", "yes" if one.needs_batches else "no", one.summary] for one in shipped]
    return _table(["name", "needs images", "what it is"], rows) + "\n"


def sudoers_part() -> str:
    """The command that allows a board's user what edgeprune does there as root."""
    from edgeprune.agent.root import sudoers

    path = "/etc/sudoers.d/edgeprune"
    # visudo wants the permissions that it gives such files itself
    return f"```\nsudo tee {path} <<END\n{sudoers('$USER')}END\nsudo chmod 0440 {path} && sudo visudo -c\n```\n"


def _overview(known: Mapping[str, Any]) -> str:
    rows = []
    for name, command in known.items():
        summary = " ".join(re.split(r"\n\s*\n", command.help or "")[0].split())
        rows.append([f"[`edgeprune {name}`](commands/{name.split()[0]}.md)", summary])
    return _table(["command", "what it does"], rows) + "\n"


def _nav(known: Mapping[str, Any], indent: str) -> str:
    return "".join(f"{indent}- {name}: commands/{name}.md\n" for name in dict.fromkeys(one.split()[0] for one in known))


def _argument(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name.upper()).removesuffix("...")
    name = f"{name}..." if parameter.nargs == -1 else name
    return name if parameter.required else f"[{name}]"


def _names(option: Any) -> str:
    return ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])


def _kinds(command: Any) -> dict[str, str]:
    """Parameter name to the type of its value, from the function's annotations: those do not vary with typer."""
    function = inspect.unwrap(command.callback)
    kinds = {}
    for name, hint in get_type_hints(function).items():
        if get_origin(hint) is Literal:
            kinds[name] = ", ".join(f"`{choice}`" for choice in get_args(hint))
            continue
        inner = [one for one in get_args(hint) if one is not NoneType] or [hint]
        many = getattr(hint, "__origin__", None) is list or getattr(inner[0], "__origin__", None) is list
        kind = (get_args(inner[0]) or inner)[0] if many else inner[0]
        word = {"bool": "flag", "str": "text", "Any": "size"}.get(kind.__name__, kind.__name__.lower())
        kinds[name] = f"{word}, several" if many else word
    return kinds


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if option.default is None or option.is_flag or option.default in ((), []):
        return ""
    return f"`{option.default}`"


def _key(name: str, value: Mapping[str, Any]) -> list[str]:
    default = value.get("default")
    shown = (
        "" if default in (None, [], {}, "") else f"`{str(default).lower() if isinstance(default, bool) else default}`"
    )
    return [f"`{name}`", _values(value), shown, _line(value.get("description", ""))]


def _values(value: Mapping[str, Any]) -> str:
    """What a schema allows, in words."""
    if "anyOf" in value:
        return " or ".join(_values(one) for one in value["anyOf"] if one.get("type") != "null")
    if "enum" in value or "const" in value:
        return ", ".join(f"`{one}`" for one in value.get("enum", [value.get("const")]))
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "multipleOf": "a multiple of"}
    limits = [f"{sign} {value[key]:g}" for key, sign in signs.items() if key in value]
    if value.get("type") == "array":
        return f"list of {_values(value['items'])}"
    if value.get("type") in ("object", ["object", "null"]):
        extra = value.get("additionalProperties")
        return f"mapping to {_values(extra)}" if isinstance(extra, dict) else "mapping"
    word = {"string": "text", "boolean": "`true` or `false`"}.get(value.get("type", ""), value.get("type", ""))
    return ", ".join([word, *limits])


def _line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _wrapped(line: str, width: int = 100) -> str:
    """A command line as several with backslashes where it is long; cut only before an option."""
    lines = [""]
    for part in re.split(r" (?=-)", line):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines[-1] += " \\"
            lines.append("    " + part)
        else:
            lines[-1] += f" {part}" if lines[-1] else part
    return "\n".join(lines)


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |" for row in cells
    )


def main() -> None:
    """Write what differs."""
    for path, text in pages().items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
