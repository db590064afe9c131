"""``python -m inure``."""

from .commands import main

main()
