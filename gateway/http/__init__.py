"""The caller's side of the wire: what is done with a request before any route sees it, and how its body is read."""
