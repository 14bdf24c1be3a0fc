# Tasks of a developer: `just --list`. Each is one line that also works without just.

python := ".venv/bin/python"

# Make the environment
setup:
    python3.11 -m venv .venv
    .venv/bin/pip install -c binder/constraints.txt -e ".[test,browser,docs]"

# The developer's loop: everything quick, on two cores
quick *arguments:
    OMP_NUM_THREADS=1 {{python}} -m pytest -n 2 -m "not slow and not system and not browser and not docs and not notebooks" {{arguments}}

# All tests that this environment can run
test *arguments:
    {{python}} -m pytest -n auto --maxprocesses 4 --dist worksteal {{arguments}}

# Style and types
lint:
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy

# Mend what can be mended
format:
    .venv/bin/ruff check --fix .
    .venv/bin/ruff format .

# Everything, as it is checked before a change goes in
everything:
    .ci/run

# Lines and branches that the tests reach
coverage:
    .venv/bin/coverage run -m pytest
    .venv/bin/coverage combine
    .venv/bin/coverage report --fail-under=92

# Links, badges and install lines, from [project.urls]
links:
    {{python}} .ci/links.py

# The site, served while you write
docs:
    .venv/bin/mkdocs serve

# The wheel, and a look at what is in it
wheel:
    {{python}} -m hatchling build -t wheel
    {{python}} -m zipfile -l dist/*.whl
