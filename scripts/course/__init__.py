"""What the commands in `scripts/` are made of.

Modules used before the virtual environment exists need Python 3.9 and its standard library only;
`source`, `render`, `execute` and `pair` run inside the virtual environment.
"""
