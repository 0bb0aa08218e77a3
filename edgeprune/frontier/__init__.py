"""One budget, every lever: what meets it is screened, trained alike, measured side by side, and one is recommended."""
