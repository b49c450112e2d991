"""`python -m regrow.cli`."""

from regrow.cli import main

main()
