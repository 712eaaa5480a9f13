"""One module per operation: its field table, its request and its answer."""
