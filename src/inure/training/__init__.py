"""From a recipe to a run directory: the step, the session around it, guards, validation."""
