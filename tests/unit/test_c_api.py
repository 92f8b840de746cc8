"""libfal for C programs: compiled with what the package installs, and run against fal-poller."""

import re
import subprocess
import time
from pathlib import Path

import pytest
from support import NULL, compiled, eventually, run

import fal

HERE = Path(__file__).parent
PACKAGE = Path(fal.__file__).parent
STRICT = ("-std=c11", "-Wextra", "-Wpedantic")


@pytest.fixture
def build(tmp_path):
    return lambda source, *words, **how: compiled(source, tmp_path / "program", *words, **how)


def test_the_example_of_fal_h(build, start_poller, tmp_path):
    """What the header's comment shows compiles as it stands, and counts every packet."""
    comment = (PACKAGE / "include/fal.h").read_text().split("*/")[0]
    example = "\n".join(re.findall(r"^ \*     (.*)$", comment, re.MULTILINE))
    assert "fal_wait" in example
    source = tmp_path / "example.c"
    source.write_text(f"""
        #include <err.h>
        #include <fal.h>
        #include <stdio.h>
        static unsigned long packets, bytes;
        static void work(const uint8_t *packet, uint32_t length) {{
            packets += packet[0] == 2;
            bytes += length;
        }}
        int main(void) {{
            {example.replace("fal:eth0", "fal:x")}
            printf("%lu packets, %lu bytes, %s\\n", packets, bytes, err.text);
        }}
    """)
    program = build(source, *STRICT)
    assert run(program).stderr == "program: no fal-poller serves 'x' (start one: fal-poller x)\n"
    poller = start_poller("x", *NULL, "--wait", "2", "--count", "4000")
    with subprocess.Popen([program], stdout=subprocess.PIPE, text=True) as worker:
        eventually(lambda: poller.stat()["groups"])
        with fal.open(poller.device, group=42):
            pass  # it came, and went: the source has begun, and what was its is abandoned
        out = worker.communicate(timeout=20)[0]
    packets, size, end = re.match(r"(\d+) packets, (\d+) bytes, (.*)\n", out).groups()
    assert 0 < int(packets) <= 4000
    assert int(size) == 60 * int(packets)
    assert end == "fal-poller has ended"
    assert poller.wait() == 0


@pytest.mark.parametrize("options", [(), ("-fsanitize=address,undefined",)], ids=["", "sanitized"])
def test_every_call(build, start_poller, options):
    calls = re.findall(r"\b(fal_\w+)\(", (PACKAGE / "include/fal.h").read_text().split("*/", 1)[1])
    assert all(f"{name}(" in (HERE / "api.c").read_text() for name in calls)
    program = build(HERE / "api.c", *STRICT, "-g", *options)
    poller = start_poller("x", *NULL, "--wait", "2", "--count", "3000")
    done = run(program, poller.device, "3000")
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert done.returncode == 0
    assert poller.wait() == 0


def test_a_c_worker_is_told_of_a_crash(build, start_poller, tmp_path):
    source = tmp_path / "crash.c"
    source.write_text("""
        #include <fal.h>
        #include <stdio.h>
        int main(void) {
            struct fal_error err = {0};
            struct fal_socket *s = fal_open(0, &err);
            if (!s || fal_attach(s, "fal:x", &err) || fal_start(s, &err))
                return 1;
            puts("up");
            fflush(stdout);
            while (fal_wait(s, -1, &err) >= 0)
                ;
            printf("%d %s\\n", err.code, err.text);
            fal_close(s);
        }
    """)
    program = build(source, *STRICT)
    poller = start_poller("x", *NULL, "--wait", "2")
    with subprocess.Popen([program], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout.readline() == "up\n"
        start = time.monotonic()
        poller.kill()
        assert worker.stdout.readline() == "104 fal-poller died\n"
        assert time.monotonic() - start < 5
