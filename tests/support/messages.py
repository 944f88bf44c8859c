"""What the product says when something is wrong, read out of its code: warnings, errors, reasons."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("processors", "producers", "schemas", "sinks", "tidegauge")
GENERATORS = ("reference.py", "documents.py")
"""Developers' commands."""
LOG_METHODS = ("warning", "error", "critical", "exception")
ERRORS = (
    "TidegaugeError",
    "UnavailableError",
    "BrokerUnavailableError",
    "SinkUnavailableError",
    "StateError",
    "StalledError",
    "GreetingError",
)
"""Wrong use (``UsageError``) and wrong settings (``SettingsError``) say themselves what to write instead."""
SHORTEST = 8
"""Characters of a phrase by which a message can be known."""


def _modules() -> Iterator[ast.Module]:
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            if not any(path.is_symlink() for path in file.parents) and file.name not in GENERATORS:
                yield ast.parse(file.read_text(encoding="utf-8"))


def _calls(*names: str) -> Iterator[ast.Call]:
    for module in _modules():
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and _name(node.func) in names:
                yield node


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _pieces(node: ast.expr) -> Iterator[str]:
    """The runs of a text that are the same each time."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from re.split(r"%[\d.]*[a-z]", node.value)
    elif isinstance(node, ast.JoinedStr):
        for part in node.values:
            yield from _pieces(part)
    elif isinstance(node, ast.IfExp):
        yield from (*_pieces(node.body), *_pieces(node.orelse))


def _phrase(node: ast.expr) -> str:
    longest = max(_pieces(node), key=len, default="")
    return " ".join(longest.split()).strip(" :;,()[]'")


def _phrases(nodes: Iterator[ast.expr]) -> set[str]:
    return {phrase for node in nodes if len(phrase := _phrase(node)) >= SHORTEST}


def warnings() -> set[str]:
    """Of each warning in a log, the part by which it is known."""
    logged = (call for call in _calls(*LOG_METHODS) if call.args and _is_log(call.func))
    said = [call.args[0] for call in logged]
    said += [call.args[1] for call in _calls("warn", "insist") if len(call.args) == 2]
    return _phrases(iter(said))


def _is_log(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and _name(node.value) in ("log", "_log", "logger")


def errors() -> set[str]:
    """Of each error that may end a command or a worker, the part by which it is known."""
    return _phrases(call.args[0] for call in _calls(*ERRORS) if call.args)


def refusals() -> set[str]:
    """The reasons of dead letters."""
    first = [call.args[0] for call in _calls("InvalidEventError") if call.args]
    first += [call.args[3] for call in _calls("DeadLetter") if len(call.args) > 3]
    return {
        piece.value
        for node in first
        for piece in ast.walk(node)
        if isinstance(piece, ast.Constant) and isinstance(piece.value, str)
    }


def drops() -> set[str]:
    """Words under which the SDK counts what it dropped or changed."""
    found = set()
    for file in sorted((ROOT / "producers").rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target  # type: ignore[union-attr]
                if _name(target).isupper() and _name(target).lower() == value.value:
                    found.add(value.value)
    return found
