"""python -m brew: the command line."""
from brew.tools.cli import main

raise SystemExit(main())
