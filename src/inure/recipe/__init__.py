"""What can vary in a run, what is refused, and the YAML that ships."""
