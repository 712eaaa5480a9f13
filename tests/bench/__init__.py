"""The benchmarks; `make bench` runs bench.py. Not collected by pytest."""
