"""The latency-budget search: what each layer costs, which channels go for it, and the probes that correct it."""
