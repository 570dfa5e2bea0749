"""The command line without its script: `python -m attriflow.cli`."""

from attriflow.cli import main

main()
