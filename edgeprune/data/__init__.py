"""Demo data that needs no network."""
