"""Check the built site: links and anchors, nothing from elsewhere, and in a browser no error and no sideways scroll.

    python docs/check_site.py [--links] [--shots FOLDER PAGE ...]

The browser is /usr/bin/chromium or the one that playwright has; without any, only links are checked. Pages are opened
as files, without a server: nothing may need one.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

SITE = Path(__file__).parent / "_build" / "html"
PAGES = (
    "index.html",
    "tutorials/index.html",
    "tutorials/data.html",
    "reference/index.html",
    "reference/torchrl.data.html",
    "reference/torchrl.data.SliceSampler.html",
    "reference/torchrl.envs.Transform.html",
    "guide/index.html",
    "examples.html",
    "scores.html",
    "changelog.html",
    "search.html",
)
VIEWS = {"light": ("light", 1280), "dark": ("dark", 1280), "phone": ("light", 390)}
CHROMIUM = Path("/usr/bin/chromium")


class Page(HTMLParser):
    """The links, assets and anchors of one page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.assets: set[str] = set()
        self.anchors: set[str] = {"", "top"}
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element names."""
        named = dict(attrs)
        self.anchors.update(value for key in ("id", "name") if (value := named.get(key)))
        is_asset = tag == "link" and named.get("rel") not in ("next", "prev", "index", "search", "canonical")
        for key in ("href", "src", "srcset", "poster", "data"):
            value = named.get(key)
            if value and key == "href" and not is_asset:
                self.links.add(value)
            elif value and not value.startswith("data:"):
                self.assets.add(value)


def broken_links(site: Path = SITE) -> list[str]:
    """Return what leads nowhere, and assets that are fetched from elsewhere."""
    pages = {file: Page(file) for file in site.rglob("*.html") if "_static" not in file.parts}
    problems = []
    for file, page in pages.items():
        name = file.relative_to(site)
        problems += [f"{name}: {asset} is not part of the site" for asset in page.assets if is_remote(asset)]
        for link in sorted(page.links | page.assets):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = file if not parts.path else Path(os.path.normpath(file.parent / unquote(parts.path)))
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                problems.append(f"{name}: {link} does not exist")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors and not is_source(link, name):
                problems.append(f"{name}: {link} has no such heading")
    for file in site.rglob("*.css"):
        remote = re.findall(r"(?:url\(|@import )['\"]?((?:https?:)?//[^'\")]+)", file.read_text())
        problems += [f"{file.relative_to(site)}: {url} is not part of the site" for url in remote]
    return problems


def is_source(link: str, page: Path) -> bool:
    """Whether a link is from or to a page of source code, whose anchors are those of one path to a name."""
    return "_modules" in link or page.parts[0] == "_modules"


def is_remote(url: str) -> bool:
    """Whether a browser would go to another server for it."""
    return url.startswith("//") or urlsplit(url).scheme in ("http", "https")


def failures(request: Any) -> list[str]:
    """Return what a failed request says; one that the next page cut off says nothing."""
    return [] if request.failure == "net::ERR_ABORTED" else [f"cannot load {request.url}: {request.failure}"]


class Browser:
    """Pages of the site in Chromium, and what goes wrong on them."""

    def __init__(self, browser: Any, site: Path = SITE) -> None:
        self.browser, self.site = browser, site

    def open(self, name: str, view: str) -> tuple[Any, list[str]]:
        """Return a page and the list that its errors are added to."""
        scheme, width = VIEWS[view]
        context = self.browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True)
        page = context.new_page()
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("requestfailed", lambda request: errors.extend(failures(request)))
        file, _, query = name.partition("?")
        page.goto((self.site / file).as_uri() + (f"?{query}" if query else ""), wait_until="load")
        return page, errors

    def problems(self, name: str, view: str) -> list[str]:
        """Return what is wrong with a page."""
        page, errors = self.open(name, view)
        found = [f"{name} ({view}): {error}" for error in errors]
        inner, outer = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        if inner > outer:
            found.append(f"{name} ({view}): {inner} px wide in a window of {outer}")
        theme = page.evaluate("document.documentElement.dataset.theme")
        if theme != VIEWS[view][0]:
            found.append(f"{name} ({view}): the theme is {theme}")
        page.context.close()
        return found

    def search(self, words: str, expected: str) -> list[str]:
        """Return what is wrong with the results of a search."""
        page, errors = self.open(f"search.html?q={words.replace(' ', '+')}", "light")
        page.wait_for_selector("#search-results li a", timeout=60_000)
        first = page.eval_on_selector_all("#search-results li a", "all => all.slice(0, 10).map(a => a.href)")
        page.context.close()
        found = any(urlsplit(link).path.endswith(expected) for link in first)
        return errors + ([] if found else [f"a search for {words} shows {first}, not {expected}"])

    def keys(self) -> list[str]:
        """Return what is wrong with the search that a key opens."""
        page, errors = self.open("index.html", "light")
        page.keyboard.press("Control+k")
        page.keyboard.type("SliceSampler")
        page.keyboard.press("Enter")
        page.wait_for_url("**/search.html?q=SliceSampler*", timeout=60_000)
        page.context.close()
        return errors

    def shoot(self, name: str, view: str, folder: Path) -> None:
        """Write a picture of a page."""
        page, _ = self.open(name, view)
        page.wait_for_timeout(1000 if "?" in name else 200)
        page.screenshot(path=folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.{view}.png")
        page.context.close()


def launch(playwright: Any) -> Any:
    """Return a browser, or None without one."""
    options = {"executable_path": str(CHROMIUM)} if CHROMIUM.exists() else {}
    try:
        return playwright.chromium.launch(**options, args=["--no-sandbox", "--allow-file-access-from-files=false"])
    except Exception as error:  # playwright names its own for each reason
        print(f"no browser, pages are not opened: {str(error).splitlines()[0]}")
        return None


def in_a_browser(shots: list[str] | None) -> list[str]:
    """Open pages in a browser; return what is wrong, or write pictures."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - the check of links needs none

    with sync_playwright() as playwright:
        chromium = launch(playwright)
        if chromium is None:
            return []
        browser = Browser(chromium)
        if shots:
            folder = Path(shots[0])
            folder.mkdir(parents=True, exist_ok=True)
            for name in shots[1:]:
                page, _, view = name.partition("@")
                browser.shoot(page, view or "light", folder)
            return []
        problems = [problem for name in PAGES for view in VIEWS for problem in browser.problems(name, view)]
        problems += browser.search("SliceSampler", "reference/torchrl.data.SliceSampler.html")
        return problems + browser.keys()


def main() -> int:
    """Check; print what is wrong; return 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--links", action="store_true", help="without a browser")
    parser.add_argument("--shots", nargs="+", help="a folder, then pages to draw, as PAGE or PAGE@dark, PAGE@phone")
    args = parser.parse_args()
    problems = [] if args.shots else broken_links()
    if not args.links:
        problems += in_a_browser(args.shots)
    print("\n".join(problems) if problems else "The site is whole.")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
