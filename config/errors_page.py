"""Lists the errors of the program for the manual: codes with their messages and hints, as the source has them.

The source is parsed, not run. A part of a text that is known only when the error occurs is shown as an ellipsis.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from itertools import product
from math import prod
from pathlib import Path
from typing import NamedTuple

from amistream.aws.error_table import NEEDS, TABLE
from amistream.errors import EXIT_STATUSES, AmistreamError
from config.markdown import cell, table

SOURCE = Path(__file__).parents[1] / "service"
UNKNOWN = "…"
BY_CASE = "it depends on the case: the message ends with it"
MANY = "it depends on the input"
_MOST_LINES = 10
"""Messages of one code that are shown; a code with more is that of bad input, and its messages name that."""
_MOST_TEXTS = 3
"""Texts that one expression may stand for; of one that could be more, the parts that vary are shown as unknown."""

Texts = dict[str, tuple[str, ...]]
"""The possible values of names."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


class _Error(NamedTuple):
    code: str
    status: int
    messages: tuple[str, ...]
    hints: tuple[str, ...]


def statuses_table() -> str:
    """Format the exit statuses."""
    return table(("status", "meaning"), ((str(status), meaning) for status, meaning in EXIT_STATUSES.items()))


def codes_table() -> str:
    """Format the errors that this program finds."""
    merged: dict[str, _Error] = {}
    for error in sorted(_errors(), key=lambda each: each.code):
        before = merged.get(error.code, _Error(error.code, error.status, (), ()))
        merged[error.code] = _Error(
            error.code,
            before.status,
            tuple(dict.fromkeys(before.messages + error.messages)),
            tuple(dict.fromkeys(before.hints + error.hints)),
        )
    rows = (
        (f"`{each.code}`", str(each.status), _lines(each.messages), _lines(each.hints) or BY_CASE * any(each.hints))
        for each in merged.values()
        if each.code.removeprefix("aws.") not in TABLE
    )
    return table(("code", "status", "message", "what to do"), rows)


def aws_table() -> str:
    """Format the errors of AWS, and of the way there."""
    merged: dict[tuple[str, ...], list[str]] = {}
    for row in dict.fromkeys(TABLE.values()):
        codes = (row.shown_as,) if row.shown_as else row.codes
        fix = "allow the [permissions](#permissions-of-operations) of the operation" if row.permission else row.fix
        cells = (row.cause.replace("{said}", UNKNOWN).replace("{where}", UNKNOWN), fix, "yes" if row.transient else "")
        before = merged.setdefault(codes, [""] * len(cells))
        merged[codes] = [
            was if new in was else "<br>".join(filter(None, (was, cell(new))))
            for was, new in zip(before, cells, strict=True)
        ]
    rows = ((", ".join(f"`aws.{code}`" for code in codes), *cells) for codes, cells in sorted(merged.items()))
    return table(("code", "cause", "what to do", "repeated"), rows)


def needs_table() -> str:
    """Format the permissions that the operations of AWS need."""
    return table(("operation", "needs"), ((f"`{operation}`", cell(needed)) for operation, needed in NEEDS.items()))


def _lines(texts: Iterable[str]) -> str:
    """The texts, without those that say nothing, on a line each."""
    found = [cell(each) for each in texts if each.strip(f"{UNKNOWN} ;:,.")]
    return "<br>".join(found) if len(found) <= _MOST_LINES else MANY


def _errors() -> Iterator[_Error]:
    sources = {path: path.read_text() for path in sorted(SOURCE.rglob("*.py"))}
    modules = [_Module(path, text) for path, text in sources.items() if "Error(" in text]
    statuses = _statuses(modules)
    makers = {(module, name): maker for module in modules for name, maker in module.makers(statuses)}
    public = {name: maker for (_, name), maker in makers.items() if not name.startswith("_")}
    for module in modules:
        for call, around in module.calls:
            name = _name(call.func)
            if name in statuses:
                yield from module.errors(call, around, statuses[name], {})
            elif maker := makers.get((module, name)) or public.get(name):
                function, own_call = maker
                given = module.arguments(call, function, around)
                yield from module.errors(own_call, [function], statuses[_name(own_call.func)], given)


def _statuses(modules: Iterable[_Module]) -> dict[str, int]:
    """The exit statuses of all classes of errors, by the names of the classes."""
    classes = {each.name: each for module in modules for each in module.classes}
    found = {AmistreamError.__name__: AmistreamError.exit_status}

    def status(name: str) -> int | None:
        if name not in found and name in classes:
            own = [
                each.value.value
                for each in classes[name].body
                if isinstance(each, ast.Assign | ast.AnnAssign)
                and isinstance(each.value, ast.Constant)
                and "exit_status" in ast.unparse(each)
            ]
            inherited = [value for base in classes[name].bases if (value := status(_name(base))) is not None]
            if inherited:
                found[name] = int(str((own or inherited)[0]))
        return found.get(name)

    for name in classes:
        status(name)
    return found


class _Module:
    """One parsed file."""

    def __init__(self, path: Path, text: str) -> None:
        tree = ast.parse(text)
        self._name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        self.classes = [each for each in tree.body if isinstance(each, ast.ClassDef)]
        self.calls = list(_calls(tree, []))

    def makers(self, statuses: Mapping[str, int]) -> Iterator[tuple[str, tuple[Function, ast.Call]]]:
        """The functions that make an error of a code that they are given, by name."""
        for call, around in self.calls:
            if _name(call.func) in statuses and call.args and isinstance(call.args[0], ast.Name):
                for function in around:
                    if call.args[0].id in [each.arg for each in (*function.args.args, *function.args.kwonlyargs)]:
                        yield function.name, (function, call)

    def arguments(self, call: ast.Call, function: Function, around: list[Function]) -> Texts:
        """The texts that the call gives to the parameters of the function."""
        names = [each.arg for each in function.args.args]
        given = dict(zip(names, call.args, strict=False)) | {each.arg: each.value for each in call.keywords if each.arg}
        known = self._locals(around, {}, call)
        return {name: self._texts(value, known) for name, value in given.items()}

    def errors(self, call: ast.Call, around: list[Function], status: int, given: Texts) -> Iterator[_Error]:
        """The errors that the call makes; several where its code depends on the case."""
        own = {each.arg: each.value for each in call.keywords}
        own.update(zip(("code", "message"), call.args, strict=False))
        code, empty = own.get("code"), ast.Constant("")
        if code is None or None in own:
            return
        cases: list[Texts] = [{}]
        if isinstance(code, ast.Name) and not given:
            cases = [case for block in _blocks(around) if code.id in (case := self._assigned(block, {}))]
        for case in cases:
            known = self._locals(around, {**given, **case}, call)
            message, hint = (self._texts(own.get(name, empty), known) for name in ("message", "hint"))
            for each in self._texts(code, known):
                if each != UNKNOWN:
                    yield _Error(each, status, message, hint)

    def _locals(self, around: list[Function], given: Texts, call: ast.Call | None = None) -> Texts:
        """The texts that are given, and those that the functions assign to other names: in the call's block, if any."""
        known: Texts = {}
        for block in _blocks(around):
            near = any(call is each for statement in block for each in ast.walk(statement))
            for name, texts in self._assigned(block, {**known, **given}).items():
                known[name] = texts if near else tuple(dict.fromkeys(known.get(name, ()) + texts))
        return {**known, **given}

    def _assigned(self, block: list[ast.stmt], known: Texts) -> Texts:
        assigned: Texts = {}
        for each in block:
            if isinstance(each, ast.Assign):
                for target in each.targets:
                    pairs = [(target, each.value)]
                    if isinstance(target, ast.Tuple) and isinstance(each.value, ast.Tuple):
                        pairs = list(zip(target.elts, each.value.elts, strict=True))
                    for name, value in pairs:
                        if isinstance(name, ast.Name):
                            assigned[name.id] = self._texts(value, known)
        return assigned

    def _texts(self, node: ast.expr, known: Texts) -> tuple[str, ...]:
        """The texts that an expression can have."""
        match node:
            case ast.Constant(value=str(text)):
                return (text,)
            case ast.Name(id=name):
                return known.get(name) or (self._constant(name),)
            case ast.FormattedValue(value=value):
                return self._texts(value, known) if isinstance(value, ast.Name) else (UNKNOWN,)
            case ast.JoinedStr(values=values):
                return self._joined(values, known)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._joined([left, right], known)
            case ast.IfExp(body=left, orelse=right) | ast.BoolOp(values=[left, right]):
                return tuple(dict.fromkeys(self._texts(left, known) + self._texts(right, known)))
            case ast.Call(func=ast.Attribute(value=ast.Name() as text, attr="replace")):
                return self._texts(text, known)
            case _:
                return (UNKNOWN,)

    def _joined(self, nodes: Iterable[ast.expr], known: Texts) -> tuple[str, ...]:
        pieces = [self._texts(each, known) for each in nodes]
        if prod(map(len, pieces)) > _MOST_TEXTS:
            pieces = [each if len(each) == 1 else (UNKNOWN,) for each in pieces]
        found = list(product(*pieces))
        return tuple(dict.fromkeys("".join(each).replace(UNKNOWN * 2, UNKNOWN) for each in found))

    def _constant(self, name: str) -> str:
        """The text of a constant of the module."""
        value = getattr(import_module(self._name), name, UNKNOWN) if name.lstrip("_").isupper() else UNKNOWN
        return value if isinstance(value, str) else UNKNOWN


def _calls(node: ast.AST, around: list[Function]) -> Iterator[tuple[ast.Call, list[Function]]]:
    """All calls, with the functions around them, the innermost last."""
    if isinstance(node, ast.Call):
        yield node, around
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        around = [*around, node]
    for each in ast.iter_child_nodes(node):
        yield from _calls(each, around)


def _blocks(around: list[Function]) -> Iterator[list[ast.stmt]]:
    for function in around:
        for each in ast.walk(function):
            for name in ("body", "orelse", "finalbody"):
                if isinstance(block := getattr(each, name, None), list):
                    yield block


@cache
def _name(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]
