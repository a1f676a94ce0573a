"""Processes, devices, files, signals, CPU speed: the machine needs them, the algorithms do not."""
