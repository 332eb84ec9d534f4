"""The published networks in PyTorch, which jaxseg is timed against. We wrote them from the facts of the parity kit.

Nothing is copied from the originals or from torchvision. Modules carry the originals' names, so that their state dicts
load. Arrays are NCHW float32. Everything runs eagerly, in the order of the originals.
"""
