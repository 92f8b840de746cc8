"""Build the native tests under the sanitizers and run each program as a case of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TOOLS = Path(sys.executable).parent
DECLARED = {
    name: re.findall(r"\w+", sanitizers)
    for name, sanitizers in re.findall(
        r"^ +'(\w+)': \[(.*)\],$", (HERE / "meson.build").read_text(), re.MULTILINE
    )
}
SETUP = {
    "asan": ["-Db_sanitize=address,undefined", "-Dc_args=-fno-sanitize-recover=all"],
    # gcc warns that TSan models no fences, and hides from it a memset that it expands in place
    "tsan": ["-Db_sanitize=thread", "-Dc_args=-Wno-tsan -fno-builtin"],
}
ENVIRONMENT = os.environ | {
    "PATH": f"{TOOLS}:{os.environ['PATH']}",
    "ASAN_OPTIONS": "detect_leaks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}


def run(*command: str | Path, timeout: float = 100) -> None:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=ENVIRONMENT,
        timeout=timeout,
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, f"{command[0]}: exit {done.returncode}\n{done.stdout}"


def without_aslr() -> list[str]:
    """TSan cannot place its shadow where addresses are too random; it may not be allowed."""
    prefix = ["setarch", "--addr-no-randomize"]
    return prefix if subprocess.run([*prefix, "true"], capture_output=True).returncode == 0 else []


@pytest.fixture(scope="module")
def built() -> dict[str, Path]:
    """The build directories by sanitizer; they are kept, so that the next run takes seconds."""
    werror = f"-Dwerror={'true' if os.environ.get('CI') else 'false'}"
    directories = {}
    for sanitizer, options in SETUP.items():
        directory = directories[sanitizer] = ROOT / "build" / sanitizer
        again = ["--reconfigure"] if (directory / "build.ninja").exists() else []
        run("meson", "setup", *again, "-Dnative_tests=true", werror, *options, directory, ROOT)
        run("meson", "compile", "-C", directory)
    return directories


def test_every_program_is_declared() -> None:
    assert DECLARED
    assert sorted(DECLARED) == sorted(path.stem for path in HERE.glob("*.c"))
    assert all(set(sanitizers) <= set(SETUP) and sanitizers for sanitizers in DECLARED.values())


@pytest.mark.timeout(300)  # the first case builds everything
@pytest.mark.parametrize(
    ("name", "sanitizer"),
    [(name, sanitizer) for name, sanitizers in DECLARED.items() for sanitizer in sanitizers],
)
def test_native(built: dict[str, Path], name: str, sanitizer: str) -> None:
    prefix = without_aslr() if sanitizer == "tsan" else []
    run(*prefix, built[sanitizer] / "tests" / "native" / name)
