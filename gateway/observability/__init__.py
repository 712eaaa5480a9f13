"""What is recorded of a request, and the log and metrics made of it."""
