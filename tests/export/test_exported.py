"""Exported models run in a process without model code; invalid files, descriptions and arrays are refused."""

import hashlib
import json
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxseg
from jaxseg.export.export import export_model
from jaxseg.export.exported import beside, load_exported, read_facts

pytestmark = pytest.mark.slow

SIZE = (16, 24)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Returns the path of a small exported U-Net, which tests must not change."""
    path = tmp_path_factory.mktemp("stored") / "model.stablehlo"
    export_model(
        jaxseg.create("cxas", backbone="resnet18", width=4, num_classes=3), path, platforms=["cpu"], image_size=SIZE
    )
    return path


@pytest.fixture
def copied(stored, tmp_path):
    """Returns the path of a copy of the exported U-Net that tests may damage."""
    for path in (stored, beside(stored)):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / stored.name


def change(path, **fields) -> None:
    """Changes fields of the JSON file of an exported model."""
    found = json.loads(beside(path).read_text())
    beside(path).write_text(json.dumps(found | fields))


def describe(path) -> None:
    """Writes the size and digest of the file into its JSON file."""
    content = path.read_bytes()
    change(path, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.full
def test_an_exported_model_runs_in_a_process_without_model_code(stored):
    code = (
        "import sys, numpy as np, jaxseg; model = jaxseg.load_exported(sys.argv[1]); "
        "known = [m for m in sys.modules if m.startswith(('jaxseg.weights', 'jaxseg.anatomy', 'flax'))]; "
        "sys.stdout.write(f'{model.call(np.zeros((2, 16, 24, 3), np.float32)).shape} {known}')"
    )
    done = subprocess.run([sys.executable, "-c", code, stored], capture_output=True, text=True, timeout=200)
    assert (done.stdout, done.stderr) == ("(2, 16, 24, 3) []", "")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ((), "got nothing"),
        (([[1.0]],), "got list"),
        ((np.zeros((1, 16, 24, 3)),), "got .* float64"),
        ((np.zeros((1, 24, 16, 3), np.float32),), r"takes image \(batch, 16, 24, 3\) float32"),
        ((np.zeros((0, 16, 24, 3), np.float32),), r"got \(0, 16, 24, 3\)"),
        ((np.zeros((1, 16, 24, 3), np.float32),) * 2, "takes image"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(stored, arrays, words):
    with pytest.raises(ValueError, match=words):
        load_exported(stored)(*arrays)


def test_the_error_names_a_platform_that_the_model_was_not_exported_for(tmp_path):
    export_model(
        jaxseg.create("prob_unet", filters=(4, 8)), tmp_path / "m.stablehlo", platforms=["tpu"], image_size=SIZE
    )
    with pytest.raises(ValueError, match="exported for tpu, and JAX computes on cpu here"):
        load_exported(tmp_path / "m.stablehlo")(np.zeros((1, *SIZE, 1), np.float32))


def test_the_error_names_a_missing_package(stored, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ValueError, match=r"pip install 'jaxseg\[export\]'"):
        load_exported(stored)


def test_damaged_and_foreign_programs_are_refused(copied, tmp_path):
    content = copied.read_bytes()
    copied.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"not the file that model.stablehlo.json describes"):
        load_exported(copied)
    copied.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match="is damaged: its SHA-256"):
        load_exported(copied)
    for other in (b"\x89PNG\r\n\x1a\n" * 9, bytes(200), content[:1000]):
        copied.write_bytes(other)
        describe(copied)
        with pytest.raises(ValueError, match="holds no exported model that JAX .* reads"):
            load_exported(copied)
    copied.unlink()
    with pytest.raises(ValueError, match="model.stablehlo is missing"):
        load_exported(copied)
    beside(copied).unlink()
    with pytest.raises(ValueError, match="there is no .*json"):
        load_exported(copied)


def test_programs_that_call_foreign_code_or_contradict_their_description_are_refused(copied):
    spec = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    exported = jax.export.export(jax.jit(lambda x: jnp.linalg.eigh(x)[0]), platforms=["cpu"])(spec)
    honest = copied.read_bytes()
    copied.write_bytes(exported.serialize())
    describe(copied)
    with pytest.raises(ValueError, match="calls code outside itself, lapack"):
        load_exported(copied)
    copied.write_bytes(honest)
    describe(copied)
    change(copied, platforms=["tpu"])
    with pytest.raises(ValueError, match="contradict each other"):
        load_exported(copied)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_only_a_valid_description_is_read(stored, tmp_path_factory, data):
    fields = json.loads(beside(stored).read_text())
    name = data.draw(st.sampled_from(sorted(fields)))
    number = st.integers(-(2**70), -1) | st.floats()
    other = data.draw(
        number | st.none() | st.booleans() | st.dictionaries(st.text(), number) | st.lists(number, min_size=1)
    )
    path = tmp_path_factory.getbasetemp() / "hostile.stablehlo"
    wrong = fields | {name: other} if data.draw(st.booleans()) else {k: v for k, v in fields.items() if k != name}
    beside(path).write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match=r"hostile\.stablehlo\.json"):
        read_facts(path)


@pytest.mark.parametrize(
    "text", ["", "[", "[" * 100_000, "1" * 10_000, "[]", '"x"', "{}", '{"format": "other"}', "\xff"]
)
def test_text_that_is_not_a_description_is_refused(tmp_path, text):
    path = tmp_path / "m.stablehlo"
    beside(path).write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=r"m\.stablehlo\.json"):
        read_facts(path)
