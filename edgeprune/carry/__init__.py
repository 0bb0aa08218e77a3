"""A measurement carried by hand: a folder goes to a board that nothing connects to, its results come back."""
