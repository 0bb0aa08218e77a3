"""Latency statistics, accuracy and the conditions of a measurement."""
