"""A private helper of fewer than four lines that is called once belongs into its caller.

``python tests/test_small_helpers.py`` prints those that exist.
"""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FEWEST_LINES = 4


def body_lines(node):
    """Return the number of lines of a function, without signature and docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


class Calls(ast.NodeVisitor):
    """Counts uses of names and attributes in a file, and those of them that are calls."""

    def __init__(self):
        self.uses, self.calls, self.imported = Counter(), Counter(), set()

    def visit_Call(self, node):
        self.calls[self.name_of(node.func)] += 1
        self.generic_visit(node)

    def visit_Name(self, node):
        self.uses[node.id] += 1

    def visit_Attribute(self, node):
        self.uses[node.attr] += 1
        self.generic_visit(node)

    def visit_Constant(self, node):  # getattr(x, "_name"), names in tables
        if isinstance(node.value, str):
            self.uses[node.value] += 1

    def visit_ImportFrom(self, node):
        self.imported.update(alias.name for alias in node.names)

    @staticmethod
    def name_of(function):
        return getattr(function, "attr", None) or getattr(function, "id", None)


def helpers(tree):
    """Yield module or class, and definition, of every private function or method."""
    for owner in ast.walk(tree):
        if not isinstance(owner, ast.Module | ast.ClassDef):
            continue
        for node in owner.body:
            if not isinstance(node, ast.FunctionDef):
                continue
            if not node.name.startswith("_") or node.name.startswith("__"):
                continue
            yield owner, node


def used_once(files):
    """Return ``file:Class.name`` of helpers with one call, few lines and no override.

    A function that is passed on as a value, not called, needs its name.
    """
    trees = {path: ast.parse(text) for path, text in files.items()}
    uses, methods, counts, imported = Counter(), Counter(), {}, set()
    for path, tree in trees.items():
        counts[path] = visitor = Calls()
        visitor.visit(tree)
        uses.update(visitor.uses)
        imported |= visitor.imported
        methods.update(node.name for owner, node in helpers(tree) if isinstance(owner, ast.ClassDef))
    found = set()
    for path, tree in trees.items():
        for owner, node in helpers(tree):
            name, is_method = node.name, isinstance(owner, ast.ClassDef)
            if node.decorator_list or (is_method and methods[name] > 1):
                continue
            total = uses[name] if is_method else counts[path].uses[name]
            is_once = total == counts[path].calls[name] == 1 and name not in imported
            if is_once and body_lines(node) < FEWEST_LINES:
                found.add(f"{path}:{owner.name + '.' if is_method else ''}{name}")
    return found


def library():
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "torchrl").rglob("*.py"))}


def test_small_helpers_that_are_used_once_are_inlined():
    assert not used_once(library()), "write the lines where they are called"


def test_planted_helpers_are_found():
    text = """
def _once(x):
    return x

def _twice(x):
    return x

def _value(x):
    return x

def _long(x):
    a = x
    b = a
    c = b
    return c

class A:
    def _hook(self): pass
    def _context(self): pass
    def _own(self): pass

class B(A):
    def _hook(self): pass
    @contextmanager
    def _context(self): yield
    def run(self):
        self._own(), self._hook(), self._context(), _once(1), _twice(1), _twice(2), _long(1), map(_value, [])
"""
    assert used_once({"a.py": text}) == {"a.py:_once", "a.py:A._own"}


if __name__ == "__main__":
    for entry in sorted(used_once(library())):
        print(entry)
