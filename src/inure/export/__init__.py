"""What leaves the house: formats of other tools, each in a file."""
