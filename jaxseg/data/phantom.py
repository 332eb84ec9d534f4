"""Phantom chest X-rays: drawn from formulas, with the anatomy known to the pixel.

These are phantoms, not anatomy of real X-rays: they exercise and demonstrate the programs, and say nothing about how well
a model reads patients. Every picture is a frontal view as radiologists hang it: the patient's right side on the left.

Lengths are in halves of the shorter image side, x runs to the right and y down from the image's centre, in the patient's
own (rotated) axes. Shapes are float32 fields of shape (H, W): about the distance to the outline, positive inside.
"""

from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

CLASSES = ("right lung", "left lung", "heart", "spine", "ribs", "clavicles")

_SMALLEST = 32
_CANVAS = 512  # pixels of the canvas for lines and letters, which are then looked up at the picture's coordinates

# What differs between patients: name, lowest and highest value.
_RANGES = {
    "rotation_deg": (-8, 8),
    "shift_x": (-0.05, 0.05),
    "shift_y": (-0.03, 0.03),
    "scale": (0.92, 1.02),
    "sway": (-0.025, 0.025),
    "lung_axis": (0.37, 0.40),
    "lung_width": (0.34, 0.39),
    "lung_power": (2.2, 2.7),
    "apex": (-0.76, -0.70),
    "dome": (0.44, 0.56),
    "dome_step": (0.03, 0.08),
    "dome_drop": (0.17, 0.26),
    "mediastinum": (0.11, 0.14),
    "chest_wall": (0.07, 0.15),
    "waist": (0.0, 0.05),
    "shoulder": (-0.94, -0.90),
    "arm": (0.16, 0.30),
    "heart_size": (0.86, 1.10),
    "heart_tilt_deg": (24, 44),
    "heart_x": (0.10, 0.14),
    "knob": (0.055, 0.085),
    "vertebra": (0.115, 0.135),
    "vertebra_phase": (0, 1),
    "spine_width": (0.070, 0.085),
    "rib_count": (9, 11.99),
    "rib_top": (-0.70, -0.64),
    "rib_slope": (0.10, 0.22),
    "rib_width": (0.020, 0.026),
    "rib_density": (0.13, 0.26),
    "clavicle_y": (-0.52, -0.45),
    "clavicle_rise": (0.12, 0.22),
    "clavicle_skew": (-0.025, 0.025),
    "clavicle_width": (0.024, 0.030),
    "breast": (-0.15, 0.20),
    "bubble": (-0.4, 0.6),
    "pacemaker": (0, 1),
    "marker": (0, 1),
    "dose": (3.4, 4.3),
    "blur": (0.002, 0.007),
    "window_low": (0.05, 0.30),
    "window_high": (2.5, 2.9),
    "gamma": (0.75, 1.15),
}


def draw(seed: int, size: int | tuple[int, int] = 256) -> tuple[np.ndarray, np.ndarray]:
    """Draws a phantom frontal chest X-ray: a phantom, not the anatomy of a real one.

    The same seed shows the same patient at every size; only the grain of the noise differs. In a picture that is not
    square the patient fills the shorter side.

    Args:
      seed: integer >= 0; decides everything but the size.
      size: side, or (height, width), in pixels, each at least 32.

    Returns:
      (H, W) uint8 picture, dense tissue bright, and (K, H, W) bool masks in the order of CLASSES. Masks overlap: ribs
      and clavicles lie over lungs, the lungs reach behind the heart.

    Raises:
      ValueError: the seed is negative or the size is too small or no pair.
    """
    height, width = _height_width(size)
    if seed < 0:
        raise ValueError(f"seed must be an integer >= 0, got {seed}")
    rng = np.random.default_rng(seed)
    low, high = np.array(list(_RANGES.values()), np.float32).T
    patient = SimpleNamespace(**dict(zip(_RANGES, rng.uniform(low, high).tolist(), strict=True)))
    lines = _lines(rng, patient)
    x, y, pixel = _grid(patient, height, width)
    shapes = _shapes(patient, x, y)
    density = _density(patient, shapes, x, y, pixel) + _look_up(lines, x, y, pixel, shapes)
    masks = [shapes.right_lung, shapes.left_lung, shapes.heart, shapes.spine, shapes.ribs, shapes.clavicles]
    return _expose(rng, patient, density, pixel), np.stack(masks) > 0


def _height_width(size) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
    if len(pair) != 2 or min(pair) < _SMALLEST:
        raise ValueError(f"size must be a side or (height, width) of at least {_SMALLEST} pixels, got {size}")
    return pair


def _grid(p, height, width):
    """Returns the patient's coordinates x and y of each pixel centre, each (H, W), and the length of a pixel."""
    unit = min(height, width) / 2 * p.scale
    column = ((np.arange(width) + 0.5 - width / 2) / unit - p.shift_x).astype(np.float32)[None, :]
    row = ((np.arange(height) + 0.5 - height / 2) / unit - p.shift_y).astype(np.float32)[:, None]
    cos, sin = np.cos(np.deg2rad(p.rotation_deg)), np.sin(np.deg2rad(p.rotation_deg))
    return float(cos) * column + float(sin) * row, float(cos) * row - float(sin) * column, 1 / unit


def _shapes(p, x, y) -> SimpleNamespace:
    """Returns the field of each organ, positive inside."""
    shapes = SimpleNamespace(s=np.abs(x), body=_body(p, x, y))
    shapes.dome = _dome(p, x, shapes.s)
    axis = p.lung_axis + 0.03 * y
    middle, reach = 0.35, 0.35 - p.apex
    far = np.abs((y - middle) / reach) ** p.lung_power
    shapes.wall = (1 - (np.abs((shapes.s - axis) / p.lung_width) ** p.lung_power + far) ** (1 / p.lung_power)) * 0.4
    shapes.cage = np.where(shapes.s < axis, np.maximum(shapes.wall, (1 - far) * 0.4), shapes.wall) + 0.022
    shapes.heart = _heart(p, x, y, shapes.dome)
    notch = 0.13 * np.exp(-(((y - 0.36) / 0.24) ** 2))  # the left lung makes room for the heart
    shapes.medial = shapes.s - p.mediastinum - np.where(x > 0, notch, 0.2 * notch)
    lung = _meet(_meet(shapes.wall, shapes.medial, 0.04), (shapes.dome - y) * 0.8, 0.012)
    shapes.lung = lung
    shapes.right_lung, shapes.left_lung = np.where(x < 0, lung, -1), np.where(x > 0, lung, -1)
    _add_bones(p, shapes, x, y)
    return shapes


def _body(p, x, y):
    """Returns the field of neck, trunk and arms."""
    s = np.abs(x)
    trunk = p.lung_axis + 0.03 + p.lung_width + p.chest_wall - p.waist * (y - 0.2) ** 2 - s
    trunk = _meet(trunk, y - p.shoulder - 0.30 * s * s, 0.12)
    neck = 0.21 - 0.1 * (y + 0.95) - s
    along = np.clip((y + 0.5) / 1.6, 0, 1)
    arm = 0.17 - 0.03 * along - np.hypot(s - 0.93 - p.arm * along * 1.3, np.minimum(y + 0.5, 0))
    return _join(_join(trunk, _meet(neck, -y, 0.05), 0.06), arm, 0.05)


def _dome(p, x, s):
    """Returns the height y of the diaphragm over x: two domes, the right one higher, with steep outer angles."""
    t = (s - p.lung_axis) / p.lung_width
    fall = np.where(t > 0, 0.45 * t**2 + 0.55 * t**4, 0.3 * t**2)
    return p.dome + p.dome_step * _step(x, 0.1) + p.dome_drop * fall


def _heart(p, x, y, dome):
    """Returns the heart's field: ventricles with the apex to the image's right, the right atrium, the great vessels."""
    tilt = np.deg2rad(p.heart_tilt_deg)
    u, v = x - p.heart_x, y - (p.dome - 0.24)
    along, across = float(np.cos(tilt)) * u + float(np.sin(tilt)) * v, float(np.cos(tilt)) * v - float(np.sin(tilt)) * u
    ventricles = (1 - np.hypot(along / (0.37 * p.heart_size), across / (0.27 * p.heart_size))) * 0.27
    atrium = 0.19 * p.heart_size - np.hypot(x + 0.05, y - (p.dome - 0.22))
    root = 0.11 - np.hypot(x - 0.05, (y - (p.dome - 0.52)) * 0.6)
    return _meet(_join(_join(ventricles, atrium, 0.06), root, 0.10), dome + 0.05 - y, 0.05)


def _add_bones(p, shapes, x, y):
    """Adds the fields of spine, ribs and clavicles, and what the density needs of them."""
    s, body = shapes.s, shapes.body
    shapes.spine_x = x - p.sway * np.sin(3 * y) - 0.3 * p.sway
    shapes.disc = y * (1 - 0.12 * y) / p.vertebra + p.vertebra_phase
    waist = 0.006 * np.cos(2 * np.pi * shapes.disc)
    shapes.spine = np.minimum(p.spine_width * (1 + 0.15 * y) + waist - np.abs(shapes.spine_x), body)
    inside = np.minimum(shapes.cage, s - 0.05)
    spacing = 1.32 / 10.5
    bend = (s / 0.75) ** 2 - 0.55 * s
    level = (y - p.rib_slope * bend - p.rib_top) / (1 + 0.35 * bend)
    shapes.back_ribs = np.minimum(_bands(level, spacing, p.rib_width, int(p.rib_count)), inside)
    level = (y - 0.30 * np.sqrt(np.maximum(0.80 - s, 0)) - p.rib_top - 0.02) / (1 + 0.10 * s)
    front = np.minimum(inside, s - 0.30 - 0.12 * np.clip(y, 0, 1))
    shapes.front_ribs = np.minimum(_bands(level, spacing, p.rib_width * 1.05, int(p.rib_count) - 4), front)
    shapes.ribs = np.maximum(shapes.back_ribs, shapes.front_ribs)
    t = (s - 0.06) / 0.66
    centre = p.clavicle_y + p.clavicle_skew * np.sign(x) - p.clavicle_rise * t + 0.022 * np.sin(2 * np.pi * t)
    thick = p.clavicle_width * (1 + 0.5 * (t - 0.5) ** 2)
    shapes.clavicles = _meet(thick - 0.95 * np.abs(y - centre), 0.33 - np.abs(s - 0.39), 0.02)


def _bands(level, spacing, half_width, count):
    """Returns the field of `count` bands, one at each whole multiple of the spacing."""
    index = np.clip(np.rint(level / spacing), 0, count - 1)
    return half_width - np.abs(level - index * spacing)


def _density(p, f, x, y, pixel):
    """Returns what the beam meets at each pixel, -log of the part that passes, (H, W)."""
    s, soft = f.s, 0.5 * pixel + 0.004
    body = _round(f.body, 0.45)
    lung = _step(f.wall, soft + 0.004) * _step(f.dome - y, soft + 0.006) * _step(f.medial, 0.05)
    heart = _step(f.heart, soft + 0.006) * (0.45 + 0.55 * _round(f.heart, 0.25))
    air = lung * (0.62 + 0.38 * _round(f.lung, 0.25)) * (1 - 0.35 * heart)
    total = body * (1.42 + 0.15 * y - 0.92 * air) + 0.62 * heart * body
    belly = _step(y - f.dome, soft + 0.006)
    total += belly * _step(f.body, 0.1) * (0.40 + 0.10 * _step(-x, 0.2))
    bubble = 1 - np.hypot((x - 0.36) / 0.17, (y - p.dome - 0.21) / 0.09)
    total -= 0.35 * max(p.bubble, 0) / 0.6 * _step(bubble, 0.3) * belly
    knob = p.knob - np.hypot(x - p.mediastinum, y + 0.26)
    total += 0.35 * _step(knob, 0.03) + 0.25 * _step(p.mediastinum + 0.02 - s, 0.05) * _step(y + 0.75, 0.3) * body
    trachea = np.minimum(0.038 - np.abs(x + 0.012), -0.14 - y)
    total -= 0.28 * _step(trachea, 0.022)
    breast = 1 - np.hypot((s - 0.45) / 0.34, (y - 0.28) / 0.30)
    total += max(p.breast, 0) * _step(breast, 0.25)
    return np.maximum(total, 0) + _bone_density(p, f, x, y, soft)


def _bone_density(p, f, x, y, soft):
    """Returns the share of the bones: bright rims on ribs and clavicles, vertebrae with discs and pedicles."""
    ribs = p.rib_density * _bone(f.back_ribs, soft) + 0.55 * p.rib_density * _bone(f.front_ribs, soft)
    shade = _step(0.75 - y, 0.25)
    clavicles = 0.34 * _bone(f.clavicles, soft)
    phase = f.disc - np.floor(f.disc)
    gap = np.exp(-(((phase - 0.5) / 0.09) ** 2))
    width = p.spine_width
    pedicle = np.exp(-(((np.abs(f.spine_x) - 0.62 * width) / 0.016) ** 2) - ((phase - 0.88) / 0.13) ** 2)
    process = np.exp(-((f.spine_x / 0.010) ** 2) - ((phase - 0.20) / 0.20) ** 2)
    spine = _step(f.spine, soft + 0.004) * (0.34 - 0.16 * gap + 0.16 * pedicle + 0.12 * process)
    blade = 1 - np.hypot((f.s - 0.76 - 0.25 * (y + 0.3)) / 0.13, (y + 0.28) / 0.34)
    scapula = 0.10 * _step(blade, 0.08) * (1 + 0.8 * _step(0.14 - blade, 0.10))
    shaft = np.clip(y + 0.55, 0, 1.5)
    humerus = 0.085 - 0.040 * np.clip(shaft / 0.2, 0, 1) - np.hypot(f.s - 0.94 - p.arm * 0.8 * shaft, y + 0.55 - shaft)
    return ribs * shade + clavicles + spine + (scapula + 0.30 * _bone(humerus, soft)) * _step(f.body, 0.04)


def _lines(rng, p) -> tuple[np.ndarray, np.ndarray]:
    """Returns two canvases over x and y in [-1, 1], (512, 512) float32: lung vessels, and metal (marker, pacemaker)."""
    vessels, metal = Image.new("L", (_CANVAS, _CANVAS)), Image.new("L", (_CANVAS, _CANVAS))
    pen = ImageDraw.Draw(vessels)
    for side, height in ((-1, 0.0), (1, -0.04)):
        _grow(rng, pen, side * (p.mediastinum + 0.03), height, side)
    pen = ImageDraw.Draw(metal)
    if p.marker < 0.6:
        letter, place = ("R", -0.78) if p.marker < 0.35 else ("L", 0.78)
        centre = ((place + 1) * _CANVAS / 2, 0.10 * _CANVAS)
        pen.text(centre, letter, fill=255, anchor="mm", font=ImageFont.load_default(size=34))
    if p.pacemaker < 0.15:
        wire = [(0.46, -0.34), (0.30, -0.42), (0.10, -0.36), (-0.06, -0.15), (-0.06, 0.12), (0.10, p.dome - 0.10)]
        pen.line([((u + 1) * _CANVAS / 2, (v + 1) * _CANVAS / 2) for u, v in _smooth(wire)], fill=150, width=4)
        pen.rounded_rectangle([370, 150, 416, 188], radius=14, fill=190)
    return vessels, metal


def _smooth(points, rounds=3):
    """Returns a polyline with its corners cut (Chaikin)."""
    points = np.asarray(points, np.float32)
    for _ in range(rounds):
        near, far = 0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]
        points = np.concatenate([points[:1], np.stack([near, far], 1).reshape(-1, 2), points[-1:]])
    return points.tolist()


def _grow(rng, pen, x, y, side):
    """Draws a lung's vessels: twigs from the hilum outwards, each level in two, thinner and fainter."""
    angle = np.linspace(-1.25, 1.35, 9) + rng.normal(0, 0.10, 9)
    x, y = np.full(9, x), y + 0.10 * np.linspace(-1, 1, 9)
    for width, length in ((6, 0.09), (5, 0.10), (3, 0.11), (2, 0.11), (1, 0.10)):
        step = length * rng.uniform(0.7, 1.2, angle.size)
        to_x, to_y = x + side * step * np.cos(angle), y + step * np.sin(angle)
        for ends in ((np.stack([x, y, to_x, to_y], 1) + 1) * (_CANVAS / 2)).tolist():
            pen.line(ends, fill=60 + 22 * width, width=width)
        angle = np.concatenate([angle + rng.uniform(0.08, 0.40, angle.size), angle - rng.uniform(0.08, 0.40, angle.size)])
        x, y = np.tile(to_x, 2), np.tile(to_y, 2)


def _look_up(lines, x, y, pixel, shapes):
    """Returns the density of vessels (inside the lungs) and metal at each pixel, (H, W)."""
    radius = 0.35 * pixel * _CANVAS / 2
    column = np.clip((x + 1) * (_CANVAS / 2), 0, _CANVAS - 1).astype(np.int32)
    row = np.clip((y + 1) * (_CANVAS / 2), 0, _CANVAS - 1).astype(np.int32)
    at = row * _CANVAS + column
    vessels, metal = (np.asarray(c.filter(ImageFilter.GaussianBlur(max(b, radius)))).ravel()[at] for c, b in
                      zip(lines, (1.6, 0.8), strict=True))
    return vessels * np.float32(0.40 / 255) * _step(shapes.lung, 0.03) + metal * np.float32(1.6 / 255)


def _expose(rng, p, density, pixel):
    """Returns the picture that film and window make of a density, (H, W) uint8."""
    dose = 10**p.dose
    photons = dose * np.exp(-density)
    photons += np.sqrt(photons) * rng.standard_normal(photons.shape, dtype=np.float32)
    seen = -np.log(np.maximum(photons, 1) / np.float32(dose))
    sigma = np.hypot(p.blur / pixel, 0.45)
    taps = np.exp(-0.5 * (np.arange(-3, 4) / sigma) ** 2)
    taps = (taps / taps.sum()).tolist()
    for axis in (0, 1):
        padded = np.pad(seen, [(3, 3) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        length = seen.shape[axis]
        seen = sum(tap * padded.take(range(i, i + length), axis) for i, tap in enumerate(taps))
    shown = np.clip((seen - p.window_low) / (p.window_high - p.window_low), 0, None)
    shown = np.tanh(1.25 * shown**p.gamma) / np.tanh(1.25)
    return np.clip(shown * 255, 0, 255).round().astype(np.uint8)


def _step(field, width):
    """Returns 0 outside, 1 inside, with a smooth edge of the given half width."""
    t = np.clip(field / (2 * width) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _round(field, depth):
    """Returns the thickness of a body with a circular rim of the given depth, in [0, 1]."""
    t = np.clip(field / depth, 0, 1)
    return np.sqrt(t * (2 - t))


def _bone(field, soft):
    """Returns the look of a long bone: a bright rim of cortex around a lighter inside."""
    return _step(field, soft) * (1.15 - 0.35 * _step(field - 0.010, 0.010))


def _meet(a, b, radius):
    """Returns the field of the overlap of two shapes with rounded corners."""
    return 0.5 * (a + b - np.sqrt((a - b) ** 2 + radius * radius))


def _join(a, b, radius):
    """Returns the field of two shapes together with rounded corners."""
    return 0.5 * (a + b + np.sqrt((a - b) ** 2 + radius * radius))
