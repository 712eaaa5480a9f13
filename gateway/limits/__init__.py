"""Limits and budgets: what a request may take, decided before Cohere is called."""
