"""One file a stage: thin, calls the rooms."""
