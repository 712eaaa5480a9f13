"""Builds the documents as a site: `make docs-site`. Runs in an environment that has mkdocs and nothing of ours.

mkdocs wants all pages in one folder, so the documents are copied there, with what they link to. A link to a folder
becomes a link to a page that lists its files.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE, SITE = ROOT / "build" / "site", ROOT / "site"
LISTING = "index" + ".md"
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
LINK = re.compile(r"(\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^(```\w+) .+$", re.MULTILINE)
"""A fenced block with a word for our tests behind its language, which the renderer does not take for one."""

FOREIGN = re.compile(
    r"<(?:script|img|iframe|source)[^>]* src=.?(?:https?:)?//"
    r"|<link[^>]* rel=.?(?:stylesheet|preconnect|icon|preload)[^>]* href=.?(?:https?:)?//"
)
"""What a page would request from elsewhere. Links that a reader may follow are none."""


def copy_sources() -> None:
    """Copies the documents, and whatever they link to."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for page in (*PAGES, *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))):
        _copy_page(ROOT / page)


def _copy_page(page: Path) -> None:
    def linked(match: re.Match[str]) -> str:
        target = (page.parent / match[2]).resolve()
        if "://" in match[2] or not target.is_relative_to(ROOT) or not target.exists():
            return match[0]
        if target.is_dir():
            _list(target)
            return f"{match[1]}{match[2].rstrip('/')}/{LISTING}{match[3] or ''})"
        if target.suffix != ".md":
            _copy(target)
        return match[0]

    text = LINK.sub(linked, page.read_text(encoding="utf-8"))
    text = FENCE.sub(r"\1", text)
    copy = SOURCE / page.relative_to(ROOT)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(text, encoding="utf-8")


def _copy(file: Path) -> str:
    """Copies a file that is no page; those that a server would run or hide get an ending that it shows."""
    copy = SOURCE / file.relative_to(ROOT)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, copy)
    return file.name


def _list(folder: Path) -> None:
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.endswith(".pyc")]
    lines = [f"# {folder.relative_to(ROOT)}", "", *(f"- [{path.name}]({_copy(path)})" for path in files), ""]
    (SOURCE / folder.relative_to(ROOT) / LISTING).write_text("\n".join(lines), encoding="utf-8")


def foreign_requests() -> list[str]:
    """Returns what pages of the site would request from elsewhere."""
    requests = []
    for page in SITE.rglob("*.html"):
        requests += [f"{page.relative_to(SITE)}: {one}" for one in FOREIGN.findall(page.read_text(encoding="utf-8"))]
    for style in SITE.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        requests += [f"{style.relative_to(SITE)}: {one}" for one in re.findall(r"url\((?:https?:)?//[^)]*\)", text)]
    return requests


def main() -> None:
    """Builds the site. Exits with an error for a broken link, or for a page that would request what is elsewhere."""
    argparse.ArgumentParser(description="Build the documents as a site.").parse_args()
    copy_sources()
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(ROOT / ".mkdocs.yml")]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status:
        sys.exit(status)
    if requests := foreign_requests():
        sys.exit("the site would ask somebody else:\n" + "\n".join(requests))
    print(f"{len(list(SITE.rglob('*.html')))} pages in {SITE.relative_to(ROOT)}/")


if __name__ == "__main__":
    main()
