"""Runs the command line: `python -m jaxseg` is the same as `jaxseg`."""

from jaxseg.cli.main import main

if __name__ == "__main__":
    main()
