"""Cohere's answers: the turn machine, which makes answer events of them, and what reads and changes these."""
