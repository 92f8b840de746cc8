"""Make the input of cffi-gen-src from the headers themselves, so that nothing is declared twice.

Usage: cdef.py HEADER... CDEF PRELUDE

cffi reads C without a preprocessor.  The headers are plain enough for this to do: directives and
attributes go, `#define NAME integer` stays, what only C++ sees goes.  A constant that is anything
but a literal is refused rather than dropped without a word: write the number or an enum.
"""

import re
import sys
from pathlib import Path

INTEGER = re.compile(r"-?(0x[0-9a-f]+|\d+)[ul]*", re.IGNORECASE)
DEFINE = re.compile(r"#\s*define\s+(\w+)(\(?)\s*(.*)")
PARENTHESES = r"\((?:[^()]|\([^()]*\))*\)"  # one level inside is enough for format(printf, 1, 2)


def directive(header: Path, line: str) -> str:
    """Return what cffi may see of a preprocessor line."""
    match = DEFINE.match(line.lstrip())
    if not match or match[2] or not match[3]:  # no define, one with parameters, an include guard
        return ""
    if INTEGER.fullmatch(match[3].strip()):
        return line
    if re.match(r"[\d(~-]", match[3]):
        sys.exit(f"{header}: `{line.strip()}`: cffi needs a literal: write the number or an enum")
    return ""


def cdef(header: Path) -> str:
    """Return the declarations of a header as cffi takes them."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", header.read_text(), flags=re.DOTALL)
    text = text.replace("\\\n", " ")
    text = re.sub(r"#ifdef __cplusplus\n.*?#endif", "", text, flags=re.DOTALL)
    text = re.sub(rf"__attribute__\s*\({PARENTHESES}\)", "", text)
    lines = (line.rstrip() for line in text.splitlines())
    lines = (directive(header, line) if line.lstrip().startswith("#") else line for line in lines)
    return "\n".join(line for line in lines if line) + "\n"


def main() -> None:
    *headers, cdef_path, prelude_path = map(Path, sys.argv[1:])
    cdef_path.write_text("\n".join(map(cdef, headers)))
    here = Path(__file__).resolve().parent
    names = (header.resolve().relative_to(here) for header in headers)
    prelude_path.write_text("".join(f'#include "{name}"\n' for name in names))


main()
