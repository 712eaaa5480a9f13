"""Contracts, field tables, notes and errors that every translation uses."""
