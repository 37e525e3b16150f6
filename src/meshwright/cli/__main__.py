"""`python -m meshwright.cli`, where the command itself is not on the path."""

from meshwright.cli import main

main()
