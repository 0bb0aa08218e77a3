"""Where a runtime runs: this machine, a board over SSH."""
