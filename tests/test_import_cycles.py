"""No cycle of modules and no import of a layer above, with imports inside functions counted.

``python tests/test_import_cycles.py`` prints the strongly connected components of the graph.
"""

import ast
import functools
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "torchrl"
LAYERS = [
    {"_core"},
    {"data"},
    {"envs", "modules", "weight_update", "checkpoint"},
    {"record"},
    {"collectors", "objectives"},
    {"trainers"},
    {"cli"},
    {"testing"},
]
# An import that reaches upwards or sideways, or closes a cycle: at most five, each with its reason.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("torchrl.modules.utils", "torchrl.envs.transforms"): (
        "public functions and methods of modules, as make_tensordict_primer, return transforms"
    )
}
# Size of the largest component of more than one module; to become 1.
LARGEST_CYCLE = 1


def modules():
    """Return the path of every module by its dotted name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


class Imports(ast.NodeVisitor):
    """Collects what a module imports, in functions too; imports for type checkers do not count."""

    def __init__(self, name, names):
        self.name, self.names, self.found = name, names, set()

    def visit_If(self, node):
        if "TYPE_CHECKING" not in ast.dump(node.test):
            self.generic_visit(node)

    def visit_Import(self, node):
        self.found.update(alias.name for alias in node.names if alias.name in self.names)

    def visit_ImportFrom(self, node):
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            if target := next((n for n in (inner, node.module) if n in self.names), None):
                self.found.add(target)

    def visit_Call(self, node):
        function = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
        function = function.id if isinstance(function, ast.Name) else function
        texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        if function in ("import_module", "__import__"):
            self.found.update(name for name in texts if name in self.names)
        self.generic_visit(node)


@functools.cache
def graph():
    """Return the modules that each module imports."""
    files = modules()
    edges = {}
    for name, path in files.items():
        visitor = Imports(name, files)
        visitor.visit(ast.parse(path.read_text()))
        edges[name] = visitor.found - {name}
    return edges


def components(edges):
    """Return the strongly connected components of more than one module, largest first (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            position = stack.index(node)
            found.append(sorted(stack[position:]))
            del stack[position:]

    for node in edges:
        if node not in index:
            visit(node)
    return sorted((part for part in found if len(part) > 1), key=len, reverse=True)


def level(name):
    """Return the number of a module's layer."""
    subpackage = name.split(".")[1]
    return next(i for i, layer in enumerate(LAYERS) if subpackage in layer)


def crossings(edges):
    """Return the imports that reach a layer above or a neighbour."""
    return {
        (name, other)
        for name, others in edges.items()
        for other in others
        if name.count(".") and other.count(".")
        if name.split(".")[1] != other.split(".")[1] and level(other) >= level(name)
    }


def without_exceptions(edges):
    return {name: {o for o in others if (name, o) not in EXCEPTIONS} for name, others in edges.items()}


def test_modules_form_no_cycle():
    found = components(without_exceptions(graph()))
    sizes = [len(part) for part in found]
    assert max(sizes, default=1) <= LARGEST_CYCLE, found
    assert len(found) <= (LARGEST_CYCLE > 1), found


def test_a_subpackage_imports_only_from_the_layers_below():
    assert crossings(graph()) - set(EXCEPTIONS) == set()


def test_exceptions_are_few_and_in_use():
    edges = graph()
    unused = [(name, other) for name, other in EXCEPTIONS if other not in edges.get(name, ())]
    assert not unused
    assert len(EXCEPTIONS) <= 5


def test_every_subpackage_has_a_layer():
    folders = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert set().union(*LAYERS) == folders


def test_planted_imports_are_seen(tmp_path):
    text = """
def f():
    from torchrl.a import b
    importlib.import_module("torchrl.c")
if TYPE_CHECKING:
    import torchrl.d
"""
    visitor = Imports("torchrl.x", {"torchrl.a.b", "torchrl.a", "torchrl.c", "torchrl.d"})
    visitor.visit(ast.parse(text))
    assert visitor.found == {"torchrl.a.b", "torchrl.c"}
    assert components({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


if __name__ == "__main__":
    for part in components(graph()):
        print(len(part), *part, sep="\n  ")
    for name, other in sorted(crossings(graph())):
        print(f"{name} -> {other}")
