"""Writes `gateway/console/vendor/` and its manifest anew out of npm's packages: `make vendor`.

The packages are those that `tests/node/package-lock.json` locks. A file is npm's own, but for what ROWS says:
names of packages become paths, since a browser without an import map knows no packages, and an import map would be
inline code, which the console's Content-Security-Policy forbids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VENDOR = ROOT / "gateway" / "console" / "vendor"
MODULES = ROOT / "tests" / "node" / "node_modules"
MANIFEST, LICENCES = "manifest.json", "LICENCES.txt"


@dataclass(frozen=True)
class Row:
    """A vendored file. source: its path in the package. replaced: texts of npm's, each of which occurs, and ours."""

    file: str
    package: str
    source: str
    replaced: Mapping[str, str] = field(default_factory=dict)
    appended: str = ""


_MAP = "\n//# sourceMappingURL={}.map"

ROWS = (
    Row("preact.mjs", "preact", "dist/preact.mjs", {_MAP.format("preact.mjs"): ""}),
    Row(
        "hooks.mjs",
        "preact",
        "hooks/dist/hooks.mjs",
        {'from"preact"': 'from"./preact.mjs"', _MAP.format("hooks.mjs"): ""},
    ),
    Row("htm.mjs", "htm", "dist/htm.mjs"),
    Row(
        "signals-core.mjs",
        "@preact/signals-core",
        "dist/signals-core.mjs",
        {"//# sourceMappingURL=signals-core.mjs.map": ""},
    ),
    Row(
        "signals.mjs",
        "@preact/signals",
        "dist/signals.mjs",
        {
            'from"preact"': 'from"./preact.mjs"',
            'from"preact/hooks"': 'from"./hooks.mjs"',
            'from"@preact/signals-core"': 'from"./signals-core.mjs"',
            "//# sourceMappingURL=signals.mjs.map": "",
        },
    ),
    Row("uplot.mjs", "uplot", "dist/uPlot.iife.min.js", appended="export default uPlot;\n"),
    Row("uplot.css", "uplot", "dist/uPlot.min.css"),
)


def adapted(row: Row, source: str) -> str:
    """Returns a file of npm's as it is served. Raises ValueError where a text that is replaced is not there."""
    for before, after in row.replaced.items():
        if before not in source:
            raise ValueError(f"{row.file}: npm's file has no {before!r}")
        source = source.replace(before, after)
    return source + row.appended


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def entry(row: Row, modules: Path = MODULES) -> tuple[dict[str, Any], str]:
    """Returns a row of the manifest, and the file that it is about, from the installed packages."""
    package = json.loads((modules / row.package / "package.json").read_text())
    source = (modules / row.package / row.source).read_text()
    text = adapted(row, source)
    return {
        "file": row.file,
        "name": row.package,
        "version": package["version"],
        "licence": package["license"],
        "source": row.source,
        "source_sha256": sha256(source),
        "sha256": sha256(text),
    }, text


def licences() -> str:
    """Returns the licence of each package, which must go with its files."""
    texts = []
    for package in dict.fromkeys(row.package for row in ROWS):
        texts.append(f"{package}\n{'=' * len(package)}\n\n{(MODULES / package / 'LICENSE').read_text().strip()}\n")
    return "\n\n".join(texts)


def main() -> None:
    manifest = []
    for row in ROWS:
        about, text = entry(row)
        (VENDOR / row.file).write_text(text)
        manifest.append(about)
    (VENDOR / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    (VENDOR / LICENCES).write_text(licences())
    print(f"{len(manifest)} files in {VENDOR.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
