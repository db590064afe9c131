"""Devices and processes, files that survive a crash, signals, precision."""
