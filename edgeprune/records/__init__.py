"""What a build leaves behind as data: its record, read back, and compared over time."""
