"""What a person sees: progress bars, tables, pictures. Knows no run and no net."""
