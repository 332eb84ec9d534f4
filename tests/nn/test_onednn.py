"""Tests of the trial of oneDNN; what it computes is tested with the engine."""

import dataclasses

import pytest

from jaxseg.nn import onednn
from jaxseg.nn.fused import Fusion


@pytest.mark.slow
@pytest.mark.usefixtures("onednn")
def test_the_trial_accepts_right_numbers_and_refuses_wrong_ones(monkeypatch):
    monkeypatch.setattr(onednn, "KINDS", onednn.KINDS[:1])
    assert onednn.trial() == 0
    right = onednn.convolve
    monkeypatch.setattr(onednn, "convolve", lambda *given: right(*given) * 1.001)
    assert onednn.trial() == 1


def test_the_description_names_what_is_computed():
    fusion = Fusion((2, 1), ((1, 2), (3, 4)), None, bias=True, residual=True, relu=True)
    text = onednn._description(fusion)
    assert '"ops": ["BIAS", "BINARY_ADD", "RELU"]' in text
    assert '"pad_left": ["1", "3"], "pad_right": ["2", "4"], "strides": ["2", "1"]' in text
    assert "fusions" not in onednn._description(dataclasses.replace(fusion, bias=False, residual=False, relu=False))
