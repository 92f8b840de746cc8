"""The house stands: the parts link what they may, import what they may, and install anywhere."""

import ast
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import fal
import fal._native

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "fal" / "native"
INSTALLED = Path(fal.__file__).parent

# What each room may include; the files of a room may include one another.  No arrow runs back.
BASE = {"layout", "base"}
ROOMS = {
    "layout": set(),
    "ring": {"layout"},
    "flow": {"layout"},
    "defrag": {"layout", "flow"},
    "bpf": BASE,
    "fanout": {"layout"},
    "base": {"layout"},
    "modes": BASE,
    "arena": BASE | {"ring"},  # the status is read and written under a sequence number
    "tpacket": BASE,
    "xsk": BASE,
    "ebpf": set(),
    "sender": BASE | {"xsk", "ebpf"},
    "backend": BASE,
    "backends": BASE | {"backend", "tpacket", "xsk", "ebpf"},
    "poller": BASE
    | {"ring", "flow", "defrag", "bpf", "fanout", "arena", "tpacket", "backend", "backends"},
    "client": BASE | {"ring", "arena", "bpf", "flow", "modes", "tpacket"},
    "pcap": BASE | {"client", "modes", "ring"},
    "python": {"layout"},
}
ROOM_OF = {"layout_check": "layout", "error": "base", "control": "base", "fal": "client"}
ROOM_OF |= {"describe": "flow", "device": "poller", "options": "backend"}
ROOM_OF |= {"poller_private": "poller"}
ROOM_OF |= {f"client_{part}": "client" for part in ("fal", "kernel", "private")}
ROOM_OF |= {"kernel_group": "client", "live": "sender"}
# Atomics of the data path live in ring.h; rings that are shared with the kernel have its protocol.
ATOMICS = {"ring.h", "backends/af_xdp.c", "tpacket.c", "xsk.c"}

PROGRAM = """
#include <fal.h>
int main(void) {
    struct fal_error err = {0};
    struct fal_socket *s = fal_open(0, &err);
    fal_close(s);
    return s ? 0 : 1;
}
"""


def sources() -> list[Path]:
    return sorted(NATIVE.rglob("*.[ch]"))


def room(path: Path) -> str:
    parts = path.relative_to(NATIVE).parts
    name = parts[0] if len(parts) > 1 else path.stem
    return ROOM_OF.get(name, name)


def code(path: Path) -> str:
    """The text of a C file without its comments."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(), flags=re.DOTALL)


def output(*command: str | Path, **options: object) -> str:
    done = subprocess.run(command, text=True, capture_output=True, **options)
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_package_is_the_installed_one() -> None:
    assert ROOT / "fal" != INSTALLED
    assert (INSTALLED / "py.typed").exists()
    source = subprocess.run([sys.executable, "-c", "import fal"], cwd=ROOT, capture_output=True)
    assert f"ImportError: {ROOT}/fal is FAL's source, not" in source.stderr.decode()
    assert fal.__version__ == version("pcap-fal")


@pytest.mark.parametrize("words", ["import fal.poller", "fal.cli.main(['modes'])"])
def test_starts_without_what_takes_long(words: str) -> None:
    """Numpy alone takes longer than all else that fal-poller and most commands load."""
    program = (
        f"import sys, fal.cli\n{words}\nprint({{'numpy', 'importlib.metadata'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-Pc", program], capture_output=True, text=True)
    assert done.stdout.endswith("set()\n"), done.stderr


def test_native_module_speaks() -> None:
    err = fal._native.ffi.new("struct fal_error *")
    assert fal._native.lib.fal_fail(err, 22, b"no") == -1
    assert err.code == 22
    assert fal._native.ffi.string(err.text) == b"no"


@pytest.mark.parametrize("library", [fal._native.__file__, INSTALLED / "lib" / "libfal.so"])
def test_core_links_libc_alone(library: Path) -> None:
    linked = re.findall(r"^\s*(\S+)", output("ldd", library), re.MULTILINE)
    others = [name for name in linked if not re.search(r"(linux-vdso|ld-linux|libc\.so)", name)]
    assert others in ([], ["statically"])  # "statically linked": needs nothing at all


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(NATIVE)))
def test_rooms_include_what_they_may(path: Path) -> None:
    own = room(path)
    assert own in ROOMS, f"{path.name} is in no room: say in ROOMS what it may include"
    for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', code(path), re.MULTILINE):
        header = next((d / name for d in (path.parent, NATIVE) if (d / name).exists()), None)
        assert header, f'{path.name} includes "{name}", which is not there'
        other = room(header.resolve())
        assert other in ROOMS[own] | {own}, f"{path.name} ({own}) may not include {name} ({other})"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(NATIVE)))
def test_atomics_stay_in_ring_h(path: Path) -> None:
    if str(path.relative_to(NATIVE)) not in ATOMICS:
        found = re.findall(r"__atomic_\w+|__sync_\w+|stdatomic\.h|\b_Atomic\b", code(path))
        assert not found, f"{path.name} has atomics: they belong in ring.h"


def test_only_bindings_imports_the_native_module() -> None:
    for path in (ROOT / "fal").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                names += [f"fal.{alias.name}" for alias in node.names if node.level]
            native = [name for name in names if re.match(r"(fal\.)?_(native|packets)\b", name)]
            assert not native or path.name == "bindings.py", f"{path.name} imports {native}"


@pytest.mark.timeout(400)
def test_plain_install_serves_python_and_c(tmp_path: Path) -> None:
    """`pip install .` into a venv is all that a Python or a C program needs."""
    skip = shutil.ignore_patterns(".*", "build", "__pycache__")
    tree = shutil.copytree(ROOT, tmp_path / "tree", ignore=skip)
    venv = tmp_path / "venv"
    output(sys.executable, "-m", "venv", venv)
    output(venv / "bin" / "pip", "install", "--quiet", tree)

    python = venv / "bin" / "python"
    found = output(python, "-c", "import fal.bindings as b; print(b.__file__)", cwd=tmp_path)
    lib = Path(found.strip()).parent / "lib"
    assert venv in lib.parents

    (tmp_path / "w.c").write_text(PROGRAM)
    flags = output("pkg-config", "--cflags", "--libs", lib / "pkgconfig" / "libfal.pc").split()
    output("cc", "w.c", "-o", "w", *flags, cwd=tmp_path)
    linked = re.search(r"libfal\.so => (\S+)", output("ldd", tmp_path / "w"))
    assert linked
    assert Path(linked[1]).resolve() == (lib / "libfal.so").resolve()
    output(tmp_path / "w", env={})
