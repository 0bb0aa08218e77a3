"""Other people's pruners, run from their own code, beside the search of this project at the latencies they reach."""
