"""Mixes of the domains of a net, or of several nets: measured, chosen, shown."""
