"""Classification heads other than a linear layer; none exists yet."""
