"""Cohere's answers: the turn machine, and what is made of its events."""
