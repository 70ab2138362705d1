"""`python -m decentral` is `decentral`."""

from decentral.cli.main import app

app()
