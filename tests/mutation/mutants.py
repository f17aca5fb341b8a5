"""Mutants: small changes to a module, each of which a good suite of tests notices."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator
from parso.python.tree import Keyword

# The library's operators whose mutants differ in kind: `<` is broken by `>=` and by `<=`, and need not be by `is`.
OPERATORS = (
    *(
        f"core/ReplaceComparisonOperator_{change}"
        for change in (
            *("Eq_NotEq", "NotEq_Eq", "Lt_GtE", "Lt_LtE", "LtE_Gt", "LtE_Lt"),
            *("Gt_LtE", "Gt_GtE", "GtE_Lt", "GtE_Gt", "Is_IsNot", "IsNot_Is"),
        )
    ),
    "core/ReplaceTrueWithFalse",
    "core/ReplaceFalseWithTrue",
    "core/ReplaceAndWithOr",
    "core/ReplaceOrWithAnd",
    "core/ReplaceBreakWithContinue",
    "core/ReplaceContinueWithBreak",
    "core/ReplaceUnaryOperator_Delete_Not",
    "core/AddNot",
    "core/ExceptionReplacer",
    "core/ZeroIterationForLoop",
)


class DeleteStatement(Operator):
    """Leaves a statement out: a call, an assignment to an attribute, a raise, a return of nothing."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Where this operator applies to a node of the library's tree."""
        if _is_droppable(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """The node with its statement left out."""
        return Keyword("pass", node.start_pos, node.get_first_leaf().prefix)

    @classmethod
    def examples(cls) -> tuple[()]:
        """None: the library uses them to test itself."""
        return ()


def _is_droppable(node: Any) -> bool:
    if node.parent is None or node.parent.type != "simple_stmt":
        return False
    if node.type in ("raise_stmt", "await_expr", "del_stmt"):
        return True
    if node.type in ("atom_expr", "await", "power"):
        return True
    # `self.x = …` and `x[…] = …`, but no plain name: that would only raise a NameError.
    return node.type == "expr_stmt" and node.children[0].type in ("atom_expr", "power")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change. `line` is where it is made; `before` and `after` are the lines as they were and as they became."""

    path: str
    function: str
    line: int
    before: str
    after: str
    code: str

    @property
    def name(self) -> str:
        """What docs/mutation.md lists it under: it holds while other lines of the file change."""
        return f"{self.path} {self.function}: `{self.before}` → `{self.after}`"


@dataclass(frozen=True, slots=True)
class Place:
    """One of the places in a module where an operator applies, counted from 0."""

    path: str
    source: str
    operator: Any
    occurrence: int

    def mutant(self) -> Mutant | None:
        """The mutant that the operator makes here; None when it is the same text, or does not compile."""
        try:
            code = mutate_code(self.source, self.operator, self.occurrence)
        except AttributeError:  # the library's operator does not know `except module.Error`
            return None
        return _mutant(self.path, _functions(ast.parse(self.source)), self.source, code)


def places_in(root: Path, path: Path) -> Iterator[Place]:
    """Where a module can be broken. No mutant is made yet, which takes longer."""
    source, name = path.read_text(), str(path.relative_to(root))
    nodes = list(ast_nodes(get_ast(source)))
    for operator in (*(get_operator(name)() for name in OPERATORS), DeleteStatement()):
        count = sum(1 for node in nodes for _ in operator.mutation_positions(node))
        yield from (Place(name, source, operator, occurrence) for occurrence in range(count))


def _mutant(path: str, functions: dict[int, str], source: str, code: str) -> Mutant | None:
    try:
        compile(code, path, "exec")
    except SyntaxError:
        return None
    before, after = source.splitlines(), code.splitlines()
    line = next(
        (number for number, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), None
    )
    if line is None or line + 1 not in functions:  # the same text, or what only runs at import
        return None
    return Mutant(path, functions[line + 1], line + 1, before[line].strip(), after[line].strip(), code)


def _functions(tree: ast.Module) -> dict[int, str]:
    """The function that each line stands in, by line number; the innermost one."""
    found: dict[int, str] = {}

    def visit(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = name
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                inner = f"{name}.{child.name}".lstrip(".")
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                first, last = child.body[0].lineno, child.end_lineno or child.lineno
                found.update(dict.fromkeys(range(first, last + 1), inner))
            visit(child, inner)

    visit(tree, "")
    return found
