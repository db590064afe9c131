"""Terms added to any method. None is built yet."""
