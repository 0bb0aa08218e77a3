"""One file a runtime, behind the seam in base."""
