"""A broad family of damages to masks, on the device, for a network that is to know the shape of an organ.

The original's three corruptions (`jaxseg.post_dae.corrupt`) teach a network to undo these three. This family contains
what segmenters do wrong in many ways: parts that are cut off along lines and arcs, holes, false islands and bridges,
a part that is moved, turned or of another size, borders that are ragged or displaced, masks that are too coarse, too
large or too small, and salt. Each example gets a random selection of them, each with a random strength.

One function samples all random numbers of a mask, another applies them. Lengths are relative to the size of the organ,
so nothing depends on the number of pixels. `jaxseg.post_dae.unseen` has other damages, for evaluation only.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxseg.nn.resize import bilinear

CUTS, ELLIPSES = 3, 4
_COARSE, _FINE = 6, 24  # knots per side of the two displacements of the border
_NOISE = 12  # knots per side of the noise of a coarse mask
LOST = 0.1  # share of the examples with several channels of which one is emptied, to be found again by the others
# The share of the examples that have each kind of damage.
SHARES = {"cuts": 0.5, "holes": 0.25, "islands": 0.4, "moved": 0.5, "border": 0.5, "coarse": 0.3, "salt": 0.15}


class Cuts(NamedTuple):
    """Curves beyond which a mask is deleted, (N,) each.

    Attributes:
      rows, columns: a point of each curve.
      angle: direction in which the mask is deleted, radians from downwards.
      bend: curvature, in 1 / size of the organ.
      side: 0: both sides of the organ are cut; -1 or 1: only the left or the right side of the picture.
      used: bool.
    """

    rows: jax.Array
    columns: jax.Array
    angle: jax.Array
    bend: jax.Array
    side: jax.Array
    used: jax.Array


class Ellipses(NamedTuple):
    """Ellipses, (N,) each: centres, logarithms of both radii, angle in radians, and whether each is used."""

    rows: jax.Array
    columns: jax.Array
    log_radii: jax.Array
    angle: jax.Array
    used: jax.Array


class Damage(NamedTuple):
    """The random numbers of the damages of one mask; lengths are in units of the size of the organ.

    Attributes:
      cuts, holes, islands: parts that are deleted, deleted and added.
      line: (3,), a row, a column and an angle: what lies beyond this line is moved.
      motion: (5,): shift down, shift across, rotation (radians), and the logarithms of both scales.
      coarse, fine: (2, K, K), displacements at knots.
      blur: standard deviation of a blur. `noise`: (K, K), added to the blurred mask; `level`: where it is cut.
      salt: share of the pixels that change.
    """

    cuts: Cuts
    holes: Ellipses
    islands: Ellipses
    line: jax.Array
    motion: jax.Array
    coarse: jax.Array
    fine: jax.Array
    blur: jax.Array
    noise: jax.Array
    level: jax.Array
    salt: jax.Array


class Frame(NamedTuple):
    """Where the organ lies: row and column of its centre, and its size, in pixels."""

    row: jax.Array
    column: jax.Array
    size: jax.Array


@jax.jit
def damaged(key: jax.Array, mask: jax.Array) -> jax.Array:
    """Damages a mask at random.

    Args:
      key: PRNG key.
      mask: (H, W, C) in [0, 1]; every channel is damaged separately, and one of several may be emptied.

    Returns:
      (H, W, C) float32 in [0, 1].
    """

    def one(key: jax.Array, plane: jax.Array) -> jax.Array:
        for_numbers, for_salt = jax.random.split(key)
        return apply_damage(plane, draw_damage(for_numbers), for_salt)

    keys = jax.random.split(key, mask.shape[-1])
    found = jax.vmap(one, in_axes=(0, 2), out_axes=2)(keys, mask.astype(jnp.float32))
    if mask.shape[-1] == 1:
        return found
    chance, which = jax.random.uniform(jax.random.fold_in(key, mask.shape[-1]), (2,))
    lost = (chance < LOST) & (jnp.arange(mask.shape[-1]) == jnp.floor(which * mask.shape[-1]).astype(jnp.int32))
    return jnp.where(lost, 0, found)


def draw_damage(key: jax.Array) -> Damage:
    """Samples the kinds of damage of one mask, and their random numbers."""
    keys = iter(jax.random.split(key, 12))
    strength = jax.random.uniform(next(keys), minval=0.1)
    chances = jax.random.uniform(next(keys), (len(SHARES),))
    has = {kind: (chances[i] < share).astype(jnp.float32) for i, (kind, share) in enumerate(SHARES.items())}
    line = jax.random.uniform(next(keys), (3,), minval=-1) * jnp.asarray([0.8, 0.8, jnp.pi])
    limits = jnp.asarray([0.6, 0.6, 0.4, 0.3, 0.3])
    motion = jax.random.uniform(next(keys), (5,), minval=-1) * limits * strength * has["moved"]
    coarse, fine = (jax.random.normal(next(keys), (2, knots, knots)) for knots in (_COARSE, _FINE))
    share, blur, level, salt = jax.random.uniform(next(keys), (4,))
    return Damage(
        _draw_cuts(next(keys), has["cuts"], strength),
        _draw_ellipses(next(keys), has["holes"], strength, reach=1.4),
        _draw_ellipses(next(keys), has["islands"], strength, reach=2.5),
        line,
        motion,
        coarse * 0.1 * share * strength * has["border"],
        fine * 0.06 * (1 - share) * strength * has["border"],
        0.25 * blur * strength * has["coarse"],
        jax.random.normal(next(keys), (_NOISE, _NOISE)) * 0.2 * strength * has["coarse"],
        0.5 + (level - 0.5) * 0.6 * strength * has["coarse"],
        0.1 * salt * strength * has["salt"],
    )


def _draw_cuts(key: jax.Array, has: jax.Array, strength: jax.Array) -> Cuts:
    rows, columns, angle, bend, side, used = jax.random.uniform(key, (6, CUTS))
    number = jnp.ceil(used[0] * CUTS * strength)
    side = jnp.where(side < 0.2, 0.0, jnp.where(side < 0.6, -1.0, 1.0))
    place = (2 * rows - 1) * 1.3, (2 * columns - 1) * 1.3
    used = jnp.arange(CUTS, dtype=jnp.float32) < number * has
    return Cuts(*place, 2 * jnp.pi * angle, 3 * (bend - 0.5), side, used)


def _draw_ellipses(key: jax.Array, has: jax.Array, strength: jax.Array, *, reach: float) -> Ellipses:
    rows, columns, angle, used, *radii = jax.random.uniform(key, (6, ELLIPSES))
    log_radii = jnp.log(0.06) + jnp.stack(radii) * jnp.log(1 + 9 * strength)
    number = jnp.ceil(used[0] * ELLIPSES)
    place = (2 * rows - 1) * reach, (2 * columns - 1) * reach
    used = jnp.arange(ELLIPSES, dtype=jnp.float32) < number * has
    return Ellipses(*place, log_radii, jnp.pi * angle, used)


def apply_damage(mask: jax.Array, how: Damage, key: jax.Array) -> jax.Array:
    """Damages an (H, W) float32 mask; `key` chooses the pixels of the salt."""
    frame = frame_of(mask)
    places = jnp.stack(jnp.meshgrid(*(jnp.arange(side, dtype=jnp.float32) for side in mask.shape), indexing="ij"))
    relative = _relative(places, frame)
    mask = _moved(mask, places, relative, how, frame)
    mask = _coarse_mask(mask, how, frame)
    for i in range(CUTS):
        mask = jnp.where(_beyond(relative, how.cuts, i), 0, mask)
    for i in range(ELLIPSES):
        mask = jnp.where(_within(relative, how.holes, i), 0, mask)
        mask = jnp.where(_within(relative, how.islands, i), 1, mask)
    return jnp.where(jax.random.uniform(key, mask.shape) < how.salt, 1 - mask, mask)


def frame_of(mask: jax.Array) -> Frame:
    """Returns the centre of an (H, W) mask and the standard deviation of its pixels; of an empty one, the picture's."""
    total = mask.sum()
    rows, columns = (jnp.arange(side, dtype=jnp.float32) for side in mask.shape)
    weights = mask.sum(1), mask.sum(0)
    divisor = jnp.maximum(total, 1)
    row, column = jnp.vdot(weights[0], rows) / divisor, jnp.vdot(weights[1], columns) / divisor
    spread = jnp.vdot(weights[0], (rows - row) ** 2) + jnp.vdot(weights[1], (columns - column) ** 2)
    size = jnp.maximum(jnp.sqrt(spread / divisor), 1)
    height, width = mask.shape
    empty = total < 1
    middle = (height - 1) / 2, (width - 1) / 2
    return Frame(*(jnp.where(empty, a, b) for a, b in zip((*middle, height / 3), (row, column, size), strict=True)))


def _relative(places: jax.Array, frame: Frame) -> jax.Array:
    return (places - jnp.stack([frame.row, frame.column])[:, None, None]) / frame.size


def _moved(mask: jax.Array, places: jax.Array, relative: jax.Array, how: Damage, frame: Frame) -> jax.Array:
    """Displaces the border, and moves what lies beyond a line."""
    # Half of the lines are upright and go through the centre: one side of the organ moves.
    upright = jnp.stack([jnp.zeros(()), jnp.zeros(()), jnp.sign(how.line[2]) * jnp.pi / 2])
    part = jnp.where(_ahead(relative, *jnp.where(how.line[0] > 0, upright, how.line)), mask, 0)
    rest = mask - part
    offsets = (_enlarged(how.coarse, mask.shape) + _enlarged(how.fine, mask.shape)) * frame.size
    # Without the barriers, XLA computes a place again for every pixel that is read, which is slow on CPUs.
    places, part, rest = jax.lax.optimization_barrier((places + offsets, part, rest))
    centre = frame_of(part)
    middle = jnp.stack([centre.row, centre.column])[:, None, None]
    down, across, turn, *scales = how.motion
    first, second = places - middle - jnp.stack([down, across])[:, None, None] * frame.size
    sine, cosine = jnp.sin(turn), jnp.cos(turn)
    turned = jnp.stack([cosine * first - sine * second, sine * first + cosine * second])
    source = jax.lax.optimization_barrier(turned * jnp.exp(-jnp.stack(scales))[:, None, None] + middle)
    look_up = functools.partial(jax.scipy.ndimage.map_coordinates, order=1)
    return jax.lax.optimization_barrier(jnp.clip(look_up(rest, list(places)) + look_up(part, list(source)), 0, 1))


def _coarse_mask(mask: jax.Array, how: Damage, frame: Frame) -> jax.Array:
    """Blurs a mask, adds noise and cuts it at a level, as a segmenter that sees little would draw it."""
    blurred = mask
    for axis, side in enumerate(mask.shape):
        numbers = jnp.arange(side, dtype=jnp.float32)
        distance = numbers[:, None] - numbers[None]
        weights = jnp.exp(-0.5 * jnp.square(distance / jnp.maximum(how.blur * frame.size, 0.3)))
        weights = weights / weights.sum(1, keepdims=True)
        blurred = weights @ blurred if axis == 0 else blurred @ weights.T
    noise = _enlarged(how.noise[None], mask.shape)[0]
    near = (blurred > 0.02) & (blurred < 0.98)  # noise moves the border, and makes no islands
    cut = (blurred + jnp.where(near, noise, 0) > how.level).astype(jnp.float32)
    return jnp.where(how.blur > 0, cut, mask)


def _ahead(relative: jax.Array, row: jax.Array, column: jax.Array, angle: jax.Array) -> jax.Array:
    return (relative[0] - row) * jnp.cos(angle) + (relative[1] - column) * jnp.sin(angle) > 0


def _beyond(relative: jax.Array, cuts: Cuts, i: int) -> jax.Array:
    """Returns the pixels, (H, W) bool, that cut `i` deletes."""
    down, across = relative[0] - cuts.rows[i], relative[1] - cuts.columns[i]
    cosine, sine = jnp.cos(cuts.angle[i]), jnp.sin(cuts.angle[i])
    ahead, beside = down * cosine + across * sine, across * cosine - down * sine
    on_side = (cuts.side[i] == 0) | (relative[1] * cuts.side[i] > 0)
    return cuts.used[i] & on_side & (ahead > cuts.bend[i] * beside**2)


def _within(relative: jax.Array, ellipses: Ellipses, i: int) -> jax.Array:
    """Returns the pixels, (H, W) bool, of ellipse `i`."""
    down, across = relative[0] - ellipses.rows[i], relative[1] - ellipses.columns[i]
    cosine, sine = jnp.cos(ellipses.angle[i]), jnp.sin(ellipses.angle[i])
    first, second = jnp.exp(ellipses.log_radii[:, i])
    ahead, beside = down * cosine + across * sine, across * cosine - down * sine
    return ellipses.used[i] & ((ahead / first) ** 2 + (beside / second) ** 2 <= 1)


def _enlarged(knots: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Returns values (N, K, K) at knots as a smooth field (N, H, W)."""
    return jnp.moveaxis(bilinear(jnp.moveaxis(knots, 0, -1)[None], shape)[0], -1, 0)
