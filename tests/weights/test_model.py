"""Models without numbers."""

import jax
import pytest
from flax import nnx

from jaxseg import registry
from jaxseg.weights.model import describe


@pytest.mark.parametrize("architecture", registry.MODELS)
def test_a_described_model_has_the_arrays_of_a_new_one(architecture):
    """The faster way gives every name, shape and dtype of flax's own."""
    model_class = registry.model_class(architecture)
    cfg = model_class.Config()

    def shapes(model):
        leaves = {path: leaf.get_value() for path, leaf in nnx.to_flat_state(nnx.state(model))}
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves.values())
        return {path: (leaf.shape, leaf.dtype) for path, leaf in leaves.items()}

    found = shapes(describe(model_class, cfg))
    assert found == shapes(nnx.eval_shape(lambda: model_class(cfg, rngs=nnx.Rngs(0))))
    assert len(found) > 5
