"""The query of a list: filters by name, pages by number."""

import difflib
from typing import Any

from gateway.management.request import ManagementRequest
from translators.core.errors import InvalidField

DEFAULT_SIZE, LARGEST_SIZE = 10, 100
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no", "")

LAST_PAGE = 10_000_000


class Filters:
    """The query of a request, of which only these names are known."""

    def __init__(self, request: ManagementRequest, *names: str) -> None:
        """Raises InvalidField for another name: a filter that is dropped would show more than was asked for."""
        self._query = request.query
        for name in request.query:
            if name not in names:
                nearest = difflib.get_close_matches(name, names, 1, 0.5)
                hint = f"the nearest name is '{nearest[0]}'" if nearest else f"there are {', '.join(names)}"
                raise InvalidField(name[:80], f"There is no parameter '{name[:80]}': {hint}", "unknown_parameter")

    def text(self, name: str) -> str:
        """Returns a value; empty if there is none."""
        return self._query.get(name, "")

    def flag(self, name: str) -> bool:
        """Returns a value that is true or false. Raises InvalidField."""
        value = self.text(name).lower()
        if value not in _TRUE + _FALSE:
            raise InvalidField(name, f"'{name}' is true or false", "invalid_type")
        return value in _TRUE

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        """Returns one of these values. Raises InvalidField."""
        value = self.text(name) or default
        if value and value not in choices:
            raise InvalidField(name, f"'{name}' is one of {', '.join(choices)}")
        return value

    def page(self, size_name: str = "size") -> tuple[int, int]:
        """Returns number and size of the page, both 1 or more. Raises InvalidField."""
        size = self._number(size_name, DEFAULT_SIZE, LARGEST_SIZE)
        return self._number("page", 1, LAST_PAGE), size

    def _number(self, name: str, default: int, most: int) -> int:
        text = self.text(name)
        if not text:
            return default
        # `isdigit` alone takes digits of all scripts.
        if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= most):
            raise InvalidField(name, f"'{name}' is a whole number from 1 to {most}")
        return int(text)


def page_of(total: int, number: int, size: int) -> dict[str, Any]:
    """Returns what LiteLLM says of a page."""
    return {"total_count": total, "current_page": number, "total_pages": -(-total // size)}
