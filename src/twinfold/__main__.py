"""``python -m twinfold``: the same as the command ``twinfold``."""

from twinfold.cli import main

main()
