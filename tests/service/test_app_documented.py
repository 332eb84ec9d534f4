"""The examples of the guide: its commands with curl answer as it says, against a running service."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from service_kit import service

from jaxseg.service import app as application
from jaxseg.service import formats
from jaxseg.service.limits import Limits

GUIDE = (Path(__file__).resolve().parents[2] / "docs/how-to/serve.md").read_text(encoding="utf-8")


@pytest.mark.system("curl")
def test_the_commands_with_curl_work(tmp_path):
    (block,) = re.findall(r"^```bash\n(.*?)^```$", GUIDE, re.M | re.S)
    (tmp_path / "service").mkdir()
    outputs = []
    with service(tmp_path / "service") as (address, _):
        for line in block.splitlines():
            words = [word.replace("http://127.0.0.1:8080", address) for word in shlex.split(line)]
            words += ["--fail", "--max-time", "90"]
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (line, done.stderr)
            outputs.append(done.stdout)
    assert (tmp_path / "chest.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "masks.zip").read_bytes().startswith(b"PK")
    assert outputs[1].startswith('{"info"')
    assert outputs[3].startswith("filename,heart_area,")
    assert '"segment"' in outputs[4]


def test_the_guide_lists_every_format_and_the_usual_limits():
    for kind in formats.SEGMENT:
        assert f"| `{kind}` |" in GUIDE
    usual = Limits()
    assert (usual.bytes, usual.pixels, usual.voxels, usual.seconds, usual.queue) == (2**27, 2**25, 2**27, 60, 32)
    for words in ("128 MiB", "2^25 pixels", "2^27 voxels", "60 seconds", "32 requests", "ten minutes"):
        assert words in " ".join(GUIDE.split())
    assert usual.result_seconds == 600
    assert application.MIN_TOKEN <= 32  # of `openssl rand -hex 16`
