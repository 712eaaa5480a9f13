"""Finds JSON Schemas that no value can satisfy.

Without this, the caller would pay Cohere twice for answers that cannot pass their check. Only certain contradictions
are reported, and a keyword that is not examined never makes a schema impossible. The work is bounded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from translators.request.check_budget import TooExpensive, begin, is_generous, spend
from translators.request.contradictions import (
    Contradiction,
    Part,
    check_bounds,
    check_lengths,
    check_range,
    check_values,
    closed_by,
    common_types,
    count_values,
    is_number,
    mapping,
    may_be,
    numbers,
    only_names,
    permits,
    repeated_branches,
    required_names,
    schema_list,
    without_branches,
)

MOST_STEPS = 2_000
"""Schemas, and pairs of them, that are examined: some 20 ms. A schema that needs more counts as possible."""

DEEPEST = 100
"""Levels of values inside values."""


class _TooLarge(Exception):
    """The bound on the work was reached."""


def contradiction(schema: Mapping[str, Any]) -> str:
    """Returns the keyword that makes a schema impossible, as a sentence; empty if a value may satisfy it.

    Raises TooExpensive on the event loop where the search takes long.
    """
    begin()
    try:
        _Search(schema).check([(schema, "#")], frozenset(), 0)
    except Contradiction as found:
        return str(found)
    except (_TooLarge, RecursionError):
        return ""
    except TooExpensive:
        if not is_generous():
            raise
    return ""


class _Search:
    """Searches one schema. Schemas that must hold together are examined together."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._definitions = {name: root[name] for name in ("$defs", "definitions") if name in root}
        self._steps = 0

    def check(self, schemas: Sequence[tuple[Any, str]], references: frozenset[str], depth: int) -> None:
        """Raises Contradiction if no value satisfies all of these schemas.

        schemas: each with its path. references: followed on the way to this value. depth: of the value.
        """
        parts: list[Part] = []
        for schema, path in schemas:
            references |= self._expand(schema, path, references, parts)
        if depth > DEEPEST:
            raise _TooLarge
        self._spend(len(parts) - 1)
        types = common_types(parts)
        check_values(parts, types, self._definitions)
        # Each listed value was checked against all keywords already.
        if any("enum" in part.schema or "const" in part.schema for part in parts):
            return
        if types:
            self._check_types(parts, types, references, depth)
        for part in parts:
            self._check_branches(part, parts, references, depth)

    def _expand(self, schema: Any, path: str, references: frozenset[str], parts: list[Part]) -> frozenset[str]:
        """Adds a schema, the target of its `$ref` and its `allOf` to `parts`. Returns the references followed."""
        self._spend(1)
        if schema is False:
            raise Contradiction(f"{path} is false")
        if not isinstance(schema, dict):
            return frozenset()
        parts.append(Part(schema, path))
        if schema.get("not") in (True, {}):
            raise Contradiction(f"'not' at {path} excludes every value")
        followed: frozenset[str] = frozenset()
        # A condition that always holds, or never does, leaves one of the two.
        condition = schema.get("if")
        branch = "then" if condition in (True, {}) else "else" if condition is False else ""
        # Without a condition `branch` is an empty text, which may be a key of the schema, too.
        if branch in schema and condition is not None:
            followed |= self._expand(schema[branch], f"{path}/{branch}", references, parts)
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            if reference in references:
                raise Contradiction(f"'$ref' at {path} requires {reference} inside itself without end")
            references |= {reference}
            followed |= frozenset({reference})
            followed |= self._expand(self._resolve(reference), reference, references, parts)
        for index, one in enumerate(schema_list(schema, "allOf")):
            # Two siblings may refer to the same schema; only a reference inside itself is a circle.
            followed |= self._expand(one, f"{path}/allOf/{index}", references, parts)
        return followed

    def _spend(self, steps: int) -> None:
        spend(2 * steps)
        self._steps += steps
        if self._steps > MOST_STEPS:
            raise _TooLarge

    def _resolve(self, reference: str) -> Any:
        value: Any = self._root
        for key in reference.removeprefix("#").strip("/").split("/") if reference not in ("#", "#/") else ():
            # In this order, or `~01` would become a slash (RFC 6901 §4).
            key = key.replace("~1", "/").replace("~0", "~")
            # What a reference does not find allows everything: `check_references` reports it.
            value = value.get(key, True) if isinstance(value, dict) else True
        return value

    def _check_types(
        self, parts: Sequence[Part], types: frozenset[str], references: frozenset[str], depth: int
    ) -> None:
        """Raises Contradiction if no type has a value: that of the first type."""
        first: Contradiction | None = None
        # Sorted, so that one schema always gets the same sentence.
        for name in sorted(types):
            try:
                if name == "object":
                    self._check_object(parts, references, depth)
                elif name == "array":
                    self._check_array(parts, references, depth)
                elif name in ("integer", "number"):
                    check_range(parts, whole=name == "integer")
                elif name == "string":
                    check_lengths(parts)
                return
            except Contradiction as found:
                first = first or found
        assert first is not None, "there is a type"
        raise first

    def _check_object(self, parts: Sequence[Part], references: frozenset[str], depth: int) -> None:
        check_bounds(parts, "minProperties", "maxProperties")
        self._spend(sum(len(schema_list(part.schema, "required")) for part in parts))
        required = dict(required_names(parts))
        self._spend(len(required) * (len(parts) - 1))
        for name, path in required.items():
            for part in parts:
                if mapping(part.schema, "dependentSchemas").get(name) is False:
                    raise Contradiction(
                        f"'required' at {path} names '{name}', which 'dependentSchemas' at {part.path} forbids"
                    )
                if not permits(part.schema, name):
                    raise Contradiction(
                        f"'required' at {path} names '{name}', which '{closed_by(part.schema)}' at {part.path} forbids"
                    )
            # Only required properties are examined: an optional one that is impossible can be left out.
            inner = [
                (part.schema["properties"][name], f"{part.path}/properties/{name}")
                for part in parts
                if isinstance(part.schema.get("properties"), dict) and name in part.schema["properties"]
            ]
            if inner:
                self.check(inner, references, depth + 1)
        for part in parts:
            most, least = part.schema.get("maxProperties"), part.schema.get("minProperties")
            if is_number(most) and most < len(required):
                raise Contradiction(f"'maxProperties' at {part.path} is less than 'required' names")
            names = only_names(part.schema)
            if names is not None and is_number(least) and least > len(names):
                raise Contradiction(f"'minProperties' at {part.path} is more than 'properties' has")
            self._check_names(part, required)

    def _check_names(self, part: Part, required: Mapping[str, str]) -> None:
        """Raises Contradiction if `propertyNames` forbids a name that is required, or all names where some are."""
        schema = part.schema.get("propertyNames", True)
        forbidden = next((name for name in required if not may_be(schema, name, self._definitions)), None)
        if forbidden is not None:
            raise Contradiction(
                f"'required' at {required[forbidden]} names '{forbidden}', which 'propertyNames' at {part.path} forbids"
            )
        least = part.schema.get("minProperties")
        allowed = schema.get("enum") if isinstance(schema, dict) else [] if schema is False else None
        if is_number(least) and isinstance(allowed, list) and least > len(allowed):
            raise Contradiction(f"'minProperties' at {part.path} is more than 'propertyNames' allows")

    def _check_array(self, parts: Sequence[Part], references: frozenset[str], depth: int) -> None:
        check_bounds(parts, "minItems", "maxItems")
        least = int(max((one for _, one in numbers(parts, "minItems")), default=0))
        for part in parts:
            first = schema_list(part.schema, "prefixItems")
            # Only items that must exist are examined: the others may be missing.
            inner = [(one, f"{part.path}/prefixItems/{index}") for index, one in enumerate(first[:least])]
            if least > len(first) and "items" in part.schema:
                inner.append((part.schema["items"], f"{part.path}/items"))
            together = [[one] for one in inner]
            if "contains" in part.schema and part.schema.get("minContains", 1) != 0:
                contained = [(part.schema["contains"], f"{part.path}/contains")]
                # With `prefixItems` it may be one of those that is contained, for which `items` does not hold.
                if "items" in part.schema and not first:
                    contained.append((part.schema["items"], f"{part.path}/items"))
                together.append(contained)
            for schemas in together:
                self.check(schemas, references, depth + 1)
            if part.schema.get("uniqueItems") is True and not first and least > count_values(part.schema.get("items")):
                raise Contradiction(f"'minItems' at {part.path} is more than 'uniqueItems' allows of 'items'")
            self._check_contains(part)

    def _check_contains(self, part: Part) -> None:
        schema = part.schema
        least = schema.get("minContains", 1) if "contains" in schema else 0
        for keyword in ("maxItems", "maxContains"):
            most = schema.get(keyword)
            if is_number(least) and is_number(most) and (keyword == "maxItems" or least) and least > most:
                raise Contradiction(f"'contains' at {part.path} needs more than '{keyword}' allows")

    def _check_branches(self, part: Part, parts: Sequence[Part], references: frozenset[str], depth: int) -> None:
        """Raises Contradiction if no branch of an `anyOf` or `oneOf` can hold beside the rest."""
        rest = [(without_branches(other.schema), other.path) for other in parts]
        for keyword in ("anyOf", "oneOf"):
            branches = schema_list(part.schema, keyword)
            self._spend(len(branches) if keyword == "oneOf" else 0)
            repeated = repeated_branches(branches) if keyword == "oneOf" else frozenset()
            first: Contradiction | None = None
            for index, branch in enumerate(branches):
                try:
                    if index in repeated:
                        raise Contradiction(f"#{index} is there twice, so that two hold or none")
                    # One branch that can hold is enough.
                    self.check([(branch, f"{part.path}/{keyword}/{index}"), *rest], references, depth + 1)
                    break
                except Contradiction as found:
                    first = first or found
            else:
                if first is not None:
                    raise Contradiction(f"'{keyword}' at {part.path} has no branch that can hold: {first}")
