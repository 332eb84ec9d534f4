"""`only_cpus` reports, before JAX starts a device, whether only CPUs will compute."""

import importlib.metadata

import jax
import pytest

from jaxseg.devices import only_cpus


@pytest.mark.parametrize(
    ("platforms", "plugins", "spec", "wanted"),
    [
        ("cpu", ["cuda"], "all", True),
        ("", ["cuda"], "cpu", True),
        ("", ["cuda"], "auto", False),
        ("cuda", ["cuda"], "auto", False),
        ("cuda", [], "auto", False),
        ("", [], "all", True),
    ],
)
def test_only_cpus_follows_the_platforms_the_plugins_and_the_option(monkeypatch, platforms, plugins, spec, wanted):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: plugins)
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", platforms)
    try:
        assert only_cpus(spec) is wanted
    finally:
        jax.config.update("jax_platforms", before)
