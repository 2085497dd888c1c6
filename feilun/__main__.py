"""``python -m feilun``."""

from feilun.cli import main

main()
