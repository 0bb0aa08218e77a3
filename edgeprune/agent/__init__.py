"""The program that edgeprune sends to a device: its facts, files, jobs, power and telemetry.

Standard library only, Python 3.8, and nothing of the rest of edgeprune: all of it travels as one zip file
(:mod:`edgeprune.devices.archive`), and nothing is installed on the device. The workstation imports the same functions
for what it has to know of itself.
"""
