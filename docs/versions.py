"""Put a built site among the versions that are published, and tell each of them which others there are.

python docs/versions.py BUILT SITE VERSION
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

START = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={0}/"><a href="{0}/">{0}</a>\n'


def publish(built: Path, site: Path, version: str) -> list[str]:
    """Copy ``built`` to ``site/version``; return all versions, ``main`` first, then the newest."""
    shutil.rmtree(site / version, ignore_errors=True)
    shutil.copytree(built, site / version)
    found = [folder.parent.name for folder in site.glob("*/objects.inv")]
    found.sort(key=lambda name: (name == "main", [int(part) for part in re.findall(r"\d+", name)]), reverse=True)
    entries = [{"version": name, "url": f"../{name}/"} for name in found]
    for name in found:
        (site / name / "_static" / "switcher.json").write_text(json.dumps(entries) + "\n")
    (site / "index.html").write_text(START.format(next((name for name in found if name != "main"), version)))
    (site / ".nojekyll").touch()  # folders that start with an underscore are part of it
    return found


if __name__ == "__main__":
    publish(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
