"""Searching without a build: one budget, or several side by side."""
