"""The run directory on disk: written, read, loaded as a net."""
