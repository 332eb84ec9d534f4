"""The published networks in PyTorch, our own writing from the facts of the parity kit: what jaxseg is timed against.

Nothing is copied from the originals or from torchvision. Modules carry the originals' names, so that their state dicts
load; arrays are NCHW float32; everything runs eagerly, in the order of the originals.
"""
