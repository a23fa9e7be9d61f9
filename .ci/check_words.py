"""Finds words that the project's glossary replaces, in docstrings, comments, messages and Markdown.

    python .ci/check_words.py

The list holds words that made readers stop: people's verbs for programs, gestures for quantities
and private terms where the field has one. WORKSPACE.md, "Words", says what to write instead.
"""

import pathlib
import re
import subprocess
import sys

# Pattern: what to write instead.
WORDS = {
    r"\bhear(s|d|ing)?\b": "a model receives or processes audio; frames are valid",
    r"\b(a|the|its|their|each|largest|what|this) share\b|\bshare of\b": "fraction or rate",
    r"\bso many\b|\bas many as there are\b": "a number with a name, such as `n`",
    r"\bbeside\b": "next to, or along with",
    r"\bsome dozens?\b": "a number",
    r"\btold of\b": "reported",
    r"\bleft away\b": "left out",
    r"\b(which|as of) see\b|\bAs of (the )?`?\w+`?\.$": "say it again",
    r"\bLikewise\b": "say it again",
    r"\b(speaks?|spoke) for\b": "belongs to",
}
SUFFIXES = (".py", ".md", ".toml", ".js", ".html")
SKIPPED = (
    "WORKSPACE.md",
    "tests/goldens/",
    "tests/reference/",
    ".ci/check_words.py",
    "CHANGELOG.md",
    "LICENSE",
)


def main():
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout
    found = 0
    for name in listed.splitlines():
        if (
            not name.endswith(SUFFIXES)
            or name.startswith(SKIPPED)
            or not pathlib.Path(name).exists()
        ):
            continue
        for number, line in enumerate(pathlib.Path(name).read_text("utf-8").splitlines(), start=1):
            for pattern, instead in WORDS.items():
                for match in re.finditer(pattern, line, re.IGNORECASE):
                    print(f"{name}:{number}: {match[0]!r}: {instead}")
                    found += 1
    return min(found, 1)


if __name__ == "__main__":
    sys.exit(main())
