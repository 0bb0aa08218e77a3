"""Raw samples, what they were taken under, their statistics, and the gates that judge them; no torch."""
