"""`python -m subquadratic` is the command `subq`."""

from subquadratic.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
