"""One file a version, run in the order of their `down_revision`. A released one is never changed."""
