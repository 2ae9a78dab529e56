"""The API reference: every public name, its page, and the theme under which the reference lists it.

``Reference()`` collects the names in the ``__all__`` of public modules; ``write`` makes the pages. As an extension
of Sphinx, it does so before sources are read, and resolves names by any path that leads to the same object.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reference_themes import SECTIONS

HEAD = ".. This file is made by docs/_ext/reference.py.\n\n"


@dataclass
class Entry:
    """One public object: the path under which it is documented, and the others that lead to it."""

    name: str
    module: str  # the public module with the shortest path
    value: Any
    others: list[str] = field(default_factory=list)

    @property
    def path(self) -> str:
        """Where users import it from."""
        return f"{self.module}.{self.name}"

    @property
    def source(self) -> str:
        """The module that defines it, or the public one where the object does not tell."""
        source = getattr(self.value, "__module__", None)
        return source if isinstance(source, str) and source.startswith("torchrl") else self.path

    @property
    def is_ours(self) -> bool:
        """Whether torchrl defines it, or hands on what tensordict does."""
        return (getattr(self.value, "__module__", None) or "torchrl").startswith("torchrl")

    @property
    def kind(self) -> str:
        """The directive that documents it."""
        if inspect.isclass(self.value):
            return "exception" if issubclass(self.value, BaseException) else "class"
        return "function" if callable(self.value) and hasattr(self.value, "__code__") else "data"

    @property
    def summary(self) -> str:
        """The first sentence of its documentation."""
        if self.kind == "data":
            return data_comments(self).partition("\n\n")[0].replace("\n", " ")
        text = inspect.cleandoc(self.value.__doc__ or "").partition("\n\n")[0]
        is_generated = text.startswith(f"{self.name}(")  # by dataclass
        return "" if is_generated else " ".join(line.strip() for line in text.splitlines())


def public_modules() -> Iterator[str]:
    """Yield the modules of torchrl that have an ``__all__``, the shortest paths first."""
    import torchrl  # noqa: PLC0415

    walked = ["torchrl", *(module.name for module in pkgutil.walk_packages(torchrl.__path__, "torchrl."))]
    for name in sorted(walked, key=lambda name: (name.count("."), name)):
        is_public = not any(part.startswith("_") for part in name.split("."))
        if is_public and hasattr(importlib.import_module(name), "__all__"):
            yield name


class Reference:
    """All public names of torchrl, by path."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.by_path: dict[str, Entry] = {}
        by_object: dict[tuple[str, int], Entry] = {}
        for module in public_modules():
            for name in dict.fromkeys(importlib.import_module(module).__all__):
                value = getattr(importlib.import_module(module), name)
                if inspect.ismodule(value):
                    continue
                found = by_object.get((name, id(value)))
                if found is None:
                    found = by_object[name, id(value)] = Entry(name, module, value)
                    self.entries.append(found)
                else:
                    found.others.append(f"{module}.{name}")
                self.by_path[f"{module}.{name}"] = found
        for entry in self.entries:  # the path of the definition, too
            self.by_path.setdefault(f"{entry.source}.{getattr(entry.value, '__qualname__', entry.name)}", entry)
        names: dict[str, list[Entry]] = {}
        for entry in self.entries:
            names.setdefault(entry.name, []).append(entry)
        self.by_name = {name: found[0] for name, found in names.items() if len(found) == 1}

    def find(self, target: str) -> str | None:
        """Return the documented path of a dotted name, which may be a method of a public class, or None."""
        head, members = target, list[str]()
        while head:
            entry = self.by_path.get(head) or self.by_name.get(head)
            if entry is not None:
                return ".".join((entry.path, *reversed(members)))
            head, _, last = head.rpartition(".")
            members.append(last)
        return None

    def section_of(self, entry: Entry) -> tuple[str, str]:
        """Return page and theme of an entry: those with the longest prefix of its source, or of its path."""
        best, place = "", ("", "")
        for slug, section in SECTIONS.items():
            for theme, prefixes in section["themes"].items():
                for prefix in prefixes:
                    where = entry.path if prefix.startswith("=") else entry.source
                    bare = prefix.lstrip("=")
                    exact = prefix.startswith("=")
                    fits = where == bare or (where.startswith(bare + ".") and not exact)
                    if fits and len(bare) + 1000 * exact > len(best):
                        best, place = bare + " " * (1000 * exact), (slug, theme)
        return place

    def grouped(self) -> dict[str, dict[str, list[Entry]]]:
        """Return the entries by page and theme, in the order of the table of themes."""
        pages: dict[str, dict[str, list[Entry]]] = {
            slug: {theme: [] for theme in section["themes"]} for slug, section in SECTIONS.items()
        }
        for entry in self.entries:
            slug, theme = self.section_of(entry)
            if slug:
                pages[slug][theme].append(entry)
        for themes in pages.values():
            for found in themes.values():
                found.sort(key=lambda entry: (entry.name.lower(), entry.name))
        return pages


def data_comments(entry: Entry) -> str:
    """Return the lines that begin with ``#:`` above a public constant, where it is defined."""
    comment = re.compile(rf"((?:^#: .*\n)+){entry.name}\b[^=\n]* = ", re.MULTILINE)
    for name, module in sorted(sys.modules.items()):
        if name.startswith("torchrl") and vars(module).get(entry.name) is entry.value:
            found = comment.search(inspect.getsource(module))
            if found:
                return found[1].replace("#: ", "").strip()
    return ""


def data_page(entry: Entry) -> str:
    """Return the directive of a constant."""
    value = entry.value
    text = f".. py:data:: {entry.path}\n"
    if isinstance(value, tuple) or "typing" in str(type(value)) or "types." in str(type(value)):
        text += "   :value: " + re.sub(r"\b(typing|torch|tensordict|collections\.abc)\.", "", repr(value)) + "\n"
    else:
        text += f"   :type: {type(value).__name__}\n"
    return text + "\n   " + data_comments(entry).replace("\n", "\n   ") + "\n\n"


def heading(text: str, line: str = "=") -> str:
    """Return a heading of reStructuredText."""
    return f"{text}\n{line * len(text)}\n\n"


def inherited(entry: Entry, reference: Reference) -> str:
    """Return lines with the methods that public base classes document, by base class."""
    seen = set(vars(entry.value))
    lines = []
    for base in entry.value.__mro__[1:]:
        path = reference.find(f"{base.__module__}.{base.__qualname__}")
        own = [
            name
            for name, value in vars(base).items()
            if not name.startswith("_") and name not in seen and has_doc(value)
        ]
        seen.update(vars(base))
        if path and own and base.__module__.startswith("torchrl"):
            links = ", ".join(f":py:obj:`{name} <{path}.{name}>`" for name in own)
            lines.append(f"From :py:class:`~{path}`: {links}\n")
    return ".. rubric:: Inherited\n\n" + "\n".join(lines) if lines else ""


def has_doc(value: Any) -> bool:
    """Whether a member has a docstring of its own."""
    function = getattr(value, "__func__", getattr(value, "fget", value))
    is_member = inspect.isfunction(function)
    return is_member and bool(function.__doc__) and (function.__module__ or "").startswith("torchrl")


def settings(entry: Entry) -> str:
    """Return a table of the fields of a dataclass that have a comment behind them; empty without any."""
    if entry.kind != "class" or not dataclasses.is_dataclass(entry.value):
        return ""
    field_line = re.compile(r"    (\w+): [^#]+?  # (.+)")
    rows: dict[str, str] = {}
    for kind in entry.value.__mro__:
        if not dataclasses.is_dataclass(kind):
            continue
        for line in inspect.getsource(kind).splitlines():
            found = field_line.fullmatch(line)
            if found and found[1] not in rows and found[1] in entry.value.__dataclass_fields__:
                value = entry.value.__dataclass_fields__[found[1]].default
                default = "" if value is dataclasses.MISSING else f"``{value!r}``"
                comment = found[2].replace("\\", "\\\\").replace("*", "\\*").replace("`", "\\`")
                rows[found[1]] = f"   * - ``{found[1]}``\n     - {default}\n     - {comment}\n"
    if not rows:
        return ""
    head = ".. list-table::\n   :widths: 25 15 60\n   :header-rows: 1\n   :class: summary\n\n"
    names = "   * - setting\n     - default\n     - meaning; source\n"
    return ".. rubric:: Settings\n\n" + head + names + "".join(rows.values()) + "\n"


def page_of(entry: Entry, reference: Reference) -> str:
    """Return the page of one name."""
    text = HEAD + heading(entry.name)
    text += f".. currentmodule:: {entry.module}\n\n"
    text += data_page(entry) if entry.kind == "data" else f".. auto{entry.kind}:: {entry.path}\n"
    if entry.kind == "class" and entry.is_ours:
        text += "   :members:\n   :show-inheritance:\n"
    text += "\n"
    if entry.others:
        text += "Also importable as " + ", ".join(f"``{path}``" for path in entry.others) + ".\n\n"
    if entry.kind == "class" and entry.is_ours:
        text += settings(entry) + inherited(entry, reference)
    return text


def section_page(slug: str, themes: dict[str, list[Entry]]) -> str:
    """Return the page of a subpackage: a table of names a theme."""
    section = SECTIONS[slug]
    text = HEAD + heading(section["title"]) + f"``{slug}``: {section['intro']}\n\n"
    if section.get("guide"):
        text += f"{section['guide']}\n\n"
    for theme, entries in themes.items():
        if not entries:
            continue
        text += heading(theme, "-") + ".. list-table::\n   :widths: 35 65\n   :class: summary\n\n"
        for entry in entries:
            text += f"   * - :py:obj:`~{entry.path}`\n     - {entry.summary}\n"
        text += "\n"
    names = [entry for entries in themes.values() for entry in entries]
    text += ".. toctree::\n   :hidden:\n\n" + "".join(f"   {entry.path}\n" for entry in names)
    return text


def index_page() -> str:
    """Return the page that lists the subpackages."""
    text = HEAD + heading("API reference")
    text += "Every public name has a page: signature with types, keys, errors, an example and the source.\n\n"
    text += ".. list-table::\n   :widths: 30 70\n   :class: summary\n\n"
    for slug, section in SECTIONS.items():
        text += f"   * - :doc:`{slug} <{slug}>`\n     - {section['intro'][0].upper()}{section['intro'][1:]}\n"
    return text + "\n.. toctree::\n   :hidden:\n\n" + "".join(f"   {slug}\n" for slug in SECTIONS)


def write(folder: Path) -> Reference:
    """Write the pages that changed to ``folder``, and remove those of names that are gone."""
    reference = Reference()
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"index": index_page()}
    for slug, themes in reference.grouped().items():
        pages[slug] = section_page(slug, themes)
        pages.update((entry.path, page_of(entry, reference)) for entries in themes.values() for entry in entries)
    for name, text in pages.items():
        file = folder / f"{name}.rst"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
    for file in folder.glob("*.rst"):
        if file.stem not in pages:
            file.unlink()
    return reference


def exists(path: str) -> bool:
    """Whether a dotted path leads to a module or an object."""
    try:
        pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError):
        return False
    return True


def setup(app: Any) -> dict[str, Any]:
    """Connect to Sphinx."""
    from sphinx.util.inspect import signature, stringify_signature  # noqa: PLC0415 - tests do without Sphinx

    def write_pages(app: Any) -> None:
        app.reference = write(Path(app.srcdir) / "reference")

    def shorten_bases(app: Any, name: str, obj: Any, options: Any, bases: list[Any]) -> None:
        for i, base in enumerate(bases):
            path = app.reference.find(f"{getattr(base, '__module__', '')}.{getattr(base, '__qualname__', '')}")
            is_private = not path and str(getattr(base, "__module__", "")).startswith("torchrl")
            bases[i] = f":py:class:`~{path}`" if path else f"``{base.__name__}``" if is_private else base

    def resolve(app: Any, env: Any, node: Any, contnode: Any) -> Any:
        if node.get("refdomain") != "py":
            return None
        target = node["reftarget"]
        path = app.reference.find(target)
        if path is not None and path != target:
            domain = env.get_domain("py")
            found = domain.resolve_xref(env, node.get("refdoc", env.docname), app.builder, "obj", path, node, contnode)
            if found is not None:
                return found
        is_written = "refexplicit" in node  # in the text, not found in a signature
        is_wrong = is_written and target.startswith("torchrl.") and not exists(target)
        return None if is_wrong else contnode  # names without a page are plain code

    def skip(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
        function = inspect.unwrap(getattr(obj, "__func__", getattr(obj, "fget", obj)))
        is_foreign = inspect.isroutine(function) and not (function.__module__ or "").startswith("torchrl")
        return True if is_foreign else None

    def sign(app: Any, what: str, name: str, obj: Any, options: Any, args: str | None, returns: str | None) -> Any:
        """Sign a class with its constructor where a ``__new__`` passes on whatever it gets."""
        if what != "class" or "*args" not in (args or "") or "**" not in (args or ""):
            return None
        constructor = signature(obj.__init__, bound_method=True)
        return stringify_signature(constructor, show_return_annotation=False, unqualified_typehints=True), returns

    app.connect("autodoc-process-signature", sign)
    app.connect("builder-inited", write_pages, priority=100)
    app.connect("autodoc-process-bases", shorten_bases)
    app.connect("autodoc-skip-member", skip)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
