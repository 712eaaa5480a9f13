"""The picture of the layers, docs/architecture.svg: boxes from LAYERS in test_house.py, arrows from the real imports.

`docs.py` writes it. Arrows that follow from others are left out: where A imports B and B imports C, an arrow from A to
C says nothing new. Rows are given by LAYERS; what is computed is the order in a row and the places, by the usual method
for layered graphs (a point in every row that an arrow passes, then rows sorted by the mean place of their neighbours).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise

import test_house as house

MIN_WIDTH = 640
BOX = (200, 46)
ROW = 76
MARGIN = 24
TITLE = 62
GAP = 18
POINT = 12
"""Pixels: of the picture at least, of a box, between rows, around it, above it, between boxes, of a passing arrow."""

COLORS: Mapping[str, tuple[str, str]] = {
    "schemas": ("#e6f4ea", "#34785a"),
    "translators": ("#e5eefc", "#3561a8"),
    "gateway": ("#f3effa", "#6b4fa0"),
}
"""Fill and outline by the first part of a name."""

NOTES: Mapping[str, str] = {
    "gateway.app": "the ASGI application",
    "gateway.auth": "who is calling",
    "gateway.cli": "the command line",
    "gateway.cohere_methods": "Cohere's methods: a table",
    "gateway.descriptors": "how many files may be open",
    "gateway.emulator": "a stand-in for Cohere",
    "gateway.endpoints": "one for each kind of path",
    "gateway.errors": "the gateway's errors: a table",
    "gateway.http": "middleware, bodies, responses",
    "gateway.observability": "request record, log, metrics",
    "gateway.pipeline": "a request from body to answer",
    "gateway.reload": "settings without a restart",
    "gateway.server": "sockets, workers, signals",
    "gateway.settings": "schema and loading",
    "gateway.state": "stored responses, sealed tokens",
    "gateway.store": "database and cache",
    "gateway.upstream": "calls to Cohere",
    "schemas.cohere": "shapes of Cohere's messages",
    "schemas.openai": "shapes of OpenAI's messages",
    "translators.answer": "events become answers",
    "translators.core": "contracts, field tables, notes",
    "translators.operations": "one module for each operation",
    "translators.request": "parts of Cohere's requests",
}
"""A few words in a box, by its name; a box without them has its name alone."""

Node = tuple[int, str]
"""A row, counted from the top, and the name of a box, or of an arrow that passes the row."""


def reduced(arrows: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns the arrows that do not follow from others. There must be no circle."""
    targets: dict[str, set[str]] = {}
    for source, target in arrows:
        targets.setdefault(source, set()).add(target)

    def reachable(name: str) -> set[str]:
        direct = targets.get(name, set())
        return direct.union(*(reachable(target) for target in direct))

    return sorted(
        (source, target)
        for source, direct in targets.items()
        for target in direct
        if not any(target in reachable(other) for other in direct - {target})
    )


def paths(layers: Sequence[Sequence[str]], arrows: Sequence[tuple[str, str]]) -> list[list[Node]]:
    """Returns for each arrow the nodes that it passes, from its box down to the other one."""
    row_of = {name: row for row, names in enumerate(reversed(layers)) for name in names}
    routes = []
    for source, target in arrows:
        between = range(row_of[source] + 1, row_of[target])
        points = [(row, f"{source} -> {target}") for row in between]
        routes.append([(row_of[source], source), *points, (row_of[target], target)])
    return routes


def positions(layers: Sequence[Sequence[str]], routes: Sequence[Sequence[Node]]) -> dict[Node, float]:
    """Returns the middle of every node, in pixels from the left."""
    rows: list[list[Node]] = [[(row, name) for name in names] for row, names in enumerate(reversed(layers))]
    neighbours: dict[Node, list[Node]] = {node: [] for row in rows for node in row}
    for route in routes:
        for number, name in route[1:-1]:
            rows[number].append((number, name))
        for upper, lower in pairwise(route):
            neighbours.setdefault(upper, []).append(lower)
            neighbours.setdefault(lower, []).append(upper)
    where = {node: MIN_WIDTH * (number + 1) / (len(row) + 1) for row in rows for number, node in enumerate(row)}
    for sweep in range(40):
        for row in rows if sweep % 2 else reversed(rows):
            if not row:
                continue
            height = row[0][0]
            wanted = {}
            for node in row:
                side = [n for n in neighbours[node] if (n[0] < height) == bool(sweep % 2)] or neighbours[node]
                wanted[node] = sum(where[n] for n in side) / len(side) if side else where[node]
            row.sort(key=lambda node: (wanted[node], node[1]))
            _spread(row, wanted, where)
    shift = MARGIN - min(middle - _half(node) for node, middle in where.items())
    return {node: middle + shift for node, middle in where.items()}


def _half(node: Node) -> float:
    """Half the width of a box, or of an arrow that passes a row."""
    return (POINT if " -> " in node[1] else BOX[0]) / 2


def _spread(row: Sequence[Node], wanted: Mapping[Node, float], where: dict[Node, float]) -> None:
    """Gives the nodes of a row places near the wanted ones, in their order and without overlaps."""
    half = [_half(node) for node in row]
    groups: list[tuple[float, list[int]]] = []  # (the left edge of a block, its nodes)

    def width(nodes: Sequence[int]) -> float:
        return sum(2 * half[n] for n in nodes) + GAP * (len(nodes) - 1)

    def best(nodes: Sequence[int]) -> float:
        offset, lefts = 0.0, []
        for n in nodes:
            lefts.append(wanted[row[n]] - half[n] - offset)
            offset += 2 * half[n] + GAP
        return sum(lefts) / len(lefts)

    for number in range(len(row)):
        group = [number]
        left = best(group)
        while groups and groups[-1][0] + width(groups[-1][1]) + GAP > left:
            group = groups.pop()[1] + group
            left = best(group)
        groups.append((left, group))
    for left, group in groups:
        for number in group:
            where[row[number]] = left + half[number]
            left += 2 * half[number] + GAP


def picture(layers: Sequence[Sequence[str]], arrows: Iterable[tuple[str, str]], notes: Mapping[str, str]) -> str:
    """Returns the SVG. notes: a few words for a box, by its name."""
    routes = paths(layers, reduced(arrows))
    where = positions(layers, routes)
    width = round(max(MIN_WIDTH, *(middle + _half(node) for node, middle in where.items()))) + MARGIN
    height = TITLE + len(layers) * ROW + MARGIN

    def top(row: int) -> float:
        return TITLE + row * ROW

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="Helvetica, Arial, sans-serif" role="img">',
        "<title>The layers of cohere-gateway</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0.5 L8 4 L0 7.5 z" fill="#7a8190"/></marker></defs>',
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="30" font-size="17" font-weight="bold" fill="#1f2430">The layers of cohere-gateway'
        "</text>",
        f'<text x="{MARGIN}" y="49" font-size="12" fill="#5b6270">An arrow means "imports". Imports run down only; '
        "arrows that follow from others are left out.</text>",
    ]
    for route in routes:
        points = [(where[node], top(node[0])) for node in route]
        d = [f"M{points[0][0]:.0f} {points[0][1] + BOX[1]:.0f}"]
        for number, ((x, y), (next_x, next_y)) in enumerate(pairwise(points)):
            last = number == len(points) - 2
            start = y + BOX[1]
            end = next_y - (1 if last else 0)
            middle = (start + end) / 2
            d.append(f"C{x:.0f} {middle:.0f} {next_x:.0f} {middle:.0f} {next_x:.0f} {end:.0f}")
            if not last:
                d.append(f"V{next_y + BOX[1]:.0f}")
        lines.append(
            f'<path d="{" ".join(d)}" fill="none" stroke="#9aa1af" stroke-width="1.3" marker-end="url(#head)"/>'
        )
    for row, names in enumerate(reversed(layers)):
        for name in names:
            fill, outline = COLORS[name.partition(".")[0]]
            left = where[row, name] - BOX[0] / 2
            note = notes.get(name, "")
            lines.append(
                f'<rect x="{left:.0f}" y="{top(row):.0f}" width="{BOX[0]}" height="{BOX[1]}" rx="6" fill="{fill}"'
                f' stroke="{outline}" stroke-width="1.2"/>'
            )
            baseline = top(row) + (20 if note else 28)
            lines.append(
                f'<text x="{where[row, name]:.0f}" y="{baseline:.0f}" text-anchor="middle" font-size="13"'
                f' font-weight="bold" fill="{outline}">{escape(name)}</text>'
            )
            if note:
                lines.append(
                    f'<text x="{where[row, name]:.0f}" y="{top(row) + 36:.0f}" text-anchor="middle" font-size="11"'
                    f' fill="#4a5160">{escape(note)}</text>'
                )
    return "\n".join([*lines, "</svg>", ""])


def imports() -> set[tuple[str, str]]:
    """Returns the imports among the entries of LAYERS, as (importer, imported)."""
    pairs = set()
    for path in house.files():
        importer = house.entry(house.dotted(path))
        if importer is None or house.dotted(path).partition(".")[0] not in house.PACKAGES:
            continue
        for one in house.module_in(path).imports:
            if one.target.partition(".")[0] in house.PACKAGES:
                imported = house.entry(one.target)
                if imported not in (None, importer):
                    pairs.add((importer, str(imported)))
    return pairs


OMITTED = frozenset({"gateway", "gateway.__main__"})
"""The version, and `python -m gateway`."""


def svg() -> str:
    """Returns the picture of the code as it is."""
    layers = [names for layer in house.LAYERS if (names := [name for name in layer if name not in OMITTED])]
    arrows = [arrow for arrow in imports() if not OMITTED.intersection(arrow)]
    return picture(layers, arrows, NOTES)
