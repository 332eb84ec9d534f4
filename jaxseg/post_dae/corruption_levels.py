"""How badly masks are corrupted where a denoiser is measured, and trained on more than the original's corruptions."""

from jaxseg.post_dae.corrupt import Corruption

HEAVY = Corruption(
    swaps=2000, max_distance=80, patch=128, max_patches=5, radius=64, max_discs=8, as_original=False
)  # missing lobes, large false islands: a Dice of about 0.7 is left of lungs

# By name, at 512 x 512: `.scaled` fits them to other sizes. None: the mask as it is.
LEVELS = {
    "clean": None,
    "light": Corruption(swaps=150, max_patches=7, max_discs=5),
    "original": Corruption(),
    "strong": Corruption(
        swaps=600, max_distance=60, patch=128, max_patches=3, radius=40, max_discs=6, as_original=False
    ),
    "heavy": HEAVY,
}
SIDE = 512  # for which they are written
