"""`python -m gcl VERB key=value ...`; spread over processes: `accelerate launch -m gcl VERB ...`."""

from gcl.cli import main

main()
