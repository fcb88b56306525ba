"""`python -m orchestrator` is the command `leadline`."""

from orchestrator.cli.main import main

if __name__ == "__main__":
    main()
