"""`python -m jaxseg.cli` is the command `jaxseg`."""

from jaxseg.cli.main import main

main()
