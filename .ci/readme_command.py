"""Prints one of README's set-up commands: ``python .ci/readme_command.py 1``, or ``2``."""

import re
import sys
from pathlib import Path


def commands(readme: str) -> list[str]:
    """The blocks of shell below the heading "Set up", in order."""
    section = readme.partition("\n## Set up\n")[2].partition("\n## ")[0]
    return [block.strip() for block in re.findall(r"```sh\n(.*?)```", section, re.S)]


if __name__ == "__main__":
    readme = Path(__file__).parents[1] / "README.md"
    print(commands(readme.read_text())[int(sys.argv[1]) - 1])
