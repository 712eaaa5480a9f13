"""One file for each version, run in the order of their `down_revision`. A released file is never changed."""
