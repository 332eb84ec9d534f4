"""Phantom chest X-rays: images computed from formulas, whose anatomy is known for every pixel.

The phantoms test and demonstrate the programs. They do not show how well a model segments X-rays of patients. Every
image is a frontal view in the radiological orientation: the patient's right is on the left.

Lengths are in halves of the shorter image side. x runs to the right and y down from the image's centre, in the
patient's own (rotated) axes. Shapes are float32 fields, (H, W): approximate distances to the outline, positive inside.
"""

from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

CLASSES = ("right lung", "left lung", "heart", "spine", "ribs", "clavicles")

_CANVAS = 512  # side of the canvas for lines and letters, in pixels; the image samples the canvas

# Parameters that differ between patients and images, by part: name, lowest and highest value.
_RANGES = {
    "view": {"rotation_deg": (-8, 8), "x": (-0.05, 0.05), "y": (-0.03, 0.03), "scale": (0.92, 1.02)},
    "lung": {"axis": (0.37, 0.40), "width": (0.34, 0.39), "power": (2.2, 2.7), "apex": (-0.76, -0.70)},
    "dome": {"y": (0.44, 0.56), "step": (0.03, 0.08), "drop": (0.15, 0.24), "bubble": (-0.4, 0.6)},
    "body": {"wall": (0.07, 0.15), "shoulder": (-0.94, -0.90), "arm": (0.16, 0.30), "breast": (-0.15, 0.20)},
    "heart": {"size": (0.84, 1.08), "tilt_deg": (18, 38), "x": (0.09, 0.13), "vessels": (0.12, 0.15)},
    "spine": {"sway": (-0.025, 0.025), "width": (0.070, 0.085), "vertebra": (0.115, 0.135), "phase": (0, 1)},
    "rib": {
        "count": (9, 11.99),
        "y": (-0.7, -0.64),
        "slope": (0.08, 0.2),
        "width": (0.02, 0.026),
        "white": (0.13, 0.26),
    },
    "clavicle": {"y": (-0.52, -0.45), "rise": (0.12, 0.2), "skew": (-0.025, 0.025), "width": (0.024, 0.03)},
    "film": {"dose": (3.0, 4.2), "blur": (0.002, 0.007), "low": (0.05, 0.3), "high": (2.6, 3.1), "gamma": (0.75, 1.15)},
    "extra": {"pacemaker": (0, 1), "marker": (0, 1)},
}

# Segments of a lung vessel from the hilum outwards: width in canvas pixels, length, and number of following segments.
_TWIGS = ((7, 0.07, 1), (5, 0.08, 2), (4, 0.07, 1), (3, 0.07, 2), (2, 0.08, 1), (1, 0.08, 2), (1, 0.10, 1))


def draw(seed: int, size: int | tuple[int, int] = 256) -> tuple[np.ndarray, np.ndarray]:
    """Draws a phantom frontal chest X-ray.

    The same seed shows the same patient at every size; only the noise differs. In an image that is not square, the
    patient fills the shorter side.

    Args:
      seed: integer >= 0; it determines everything except the size.
      size: side, or (height, width), in pixels, each at least 32.

    Returns:
      The image, (H, W) uint8, with dense tissue bright, and the masks, (K, H, W) bool, in the order of CLASSES. Masks
      overlap: ribs and clavicles lie over the lungs, and the lungs extend behind the heart.

    Raises:
      ValueError: the seed is negative, or the size is too small or not a pair.
    """
    height, width = _height_width(size)
    if seed < 0:
        raise ValueError(f"seed must be an integer >= 0, got {seed}")
    rng = np.random.default_rng(seed)
    patient = _patient(rng)
    lines = _lines(rng, patient)
    x, y, pixel = _grid(patient, height, width)
    shapes = _shapes(patient, x, y)
    density = _density(patient, shapes, x, y, pixel) + _look_up(lines, x, y, pixel, shapes)
    masks = [shapes.right_lung, shapes.left_lung, shapes.heart, shapes.spine, shapes.ribs, shapes.clavicles]
    return _expose(rng, patient, density, pixel), np.stack(masks) > 0


def _height_width(size) -> tuple[int, int]:
    pair = (size, size) if np.ndim(size) == 0 else tuple(size)
    if len(pair) != 2 or not all(isinstance(n, (int, np.integer)) and n >= 32 for n in pair):
        raise ValueError(f"size must be a side or (height, width) of at least 32 whole pixels, got {size}")
    return pair


def _patient(rng) -> SimpleNamespace:
    """Samples one number from each range, under names such as `heart_size`."""
    ranges = {f"{part}_{name}": ends for part, names in _RANGES.items() for name, ends in names.items()}
    return SimpleNamespace(**{name: rng.uniform(*ends) for name, ends in ranges.items()})


def _grid(p, height, width):
    """Returns the patient's coordinates x and y of each pixel centre, each (H, W), and the length of a pixel."""
    unit = min(height, width) / 2 * p.view_scale
    column = ((np.arange(width) + 0.5 - width / 2) / unit - p.view_x).astype(np.float32)[None, :]
    row = ((np.arange(height) + 0.5 - height / 2) / unit - p.view_y).astype(np.float32)[:, None]
    cos, sin = np.cos(np.deg2rad(p.view_rotation_deg)), np.sin(np.deg2rad(p.view_rotation_deg))
    return float(cos) * column + float(sin) * row, float(cos) * row - float(sin) * column, 1 / unit


def _shapes(p, x, y) -> SimpleNamespace:
    """Returns the field of each organ, positive inside, and a few lengths that `_density` needs."""
    f = SimpleNamespace(s=np.abs(x), body=_body(p, x, y))
    f.dome = _dome(p, x, f.s)
    axis = p.lung_axis + 0.03 * y
    far = np.abs((y - 0.35) / (0.35 - p.lung_apex)) ** p.lung_power
    f.wall = (1 - (np.abs((f.s - axis) / p.lung_width) ** p.lung_power + far) ** (1 / p.lung_power)) * 0.4
    f.heart = _heart(p, x, y, f.dome)
    notch = 0.16 * np.exp(-(((y - 0.36) / 0.24) ** 2))  # the heart displaces the left lung
    f.medial = f.s - p.heart_vessels - np.where(x > 0, notch, 0.2 * notch)
    f.lung = _meet(_meet(f.wall, f.medial, 0.04), (f.dome - y) * 0.8, 0.012)
    f.right_lung, f.left_lung = np.where(x < 0, f.lung, -1), np.where(x > 0, f.lung, -1)
    f.spine_x = x - p.spine_sway * np.sin(3 * y) - 0.3 * p.spine_sway
    f.disc = y * (1 - 0.12 * y) / p.spine_vertebra + p.spine_phase
    waist = 0.006 * np.cos(2 * np.pi * f.disc)
    f.spine = np.minimum(p.spine_width * (1 + 0.15 * y) + waist - np.abs(f.spine_x), f.body)
    cage = axis + p.lung_width * np.maximum(1 - far, 0) ** (1 / p.lung_power)
    inside = np.minimum(np.where(f.s < axis, 0.4 * (1 - far), f.wall) + 0.022, 1 - y)
    f.back_ribs, f.front_ribs = _ribs(p, f.s, y, cage, inside)
    f.ribs = np.maximum(f.back_ribs, f.front_ribs)
    t = (f.s - 0.06) / 0.72
    centre = p.clavicle_y + p.clavicle_skew * np.sign(x) - p.clavicle_rise * t + 0.022 * np.sin(2 * np.pi * t)
    thick = p.clavicle_width * (1 + 0.5 * (t - 0.5) ** 2)
    f.clavicles = _meet(thick - 0.95 * np.abs(y - centre), np.minimum(0.35 - np.abs(f.s - 0.41), f.body - 0.01), 0.02)
    return f


def _body(p, x, y):
    """Returns the field of neck, trunk and arms."""
    s = np.abs(x)
    trunk = p.lung_axis + 0.03 + p.lung_width + p.body_wall - s
    trunk = _meet(trunk, y - p.body_shoulder - 0.30 * s * s, 0.12)
    neck = 0.21 - 0.1 * (y + 0.95) - s
    along = np.clip((y + 0.5) / 1.6, 0, 1)
    arm = 0.17 - 0.03 * along - _length(s - 0.93 - p.body_arm * along * 1.3, np.minimum(y + 0.5, 0))
    return _join(_join(trunk, _meet(neck, -y, 0.05), 0.06), arm, 0.05)


def _dome(p, x, s):
    """Returns the height y of the diaphragm over x: two domes, the right one higher, with steep outer angles."""
    t = np.minimum((s - p.lung_axis) / p.lung_width, 1.1)
    t = t * np.abs(t)
    fall = np.where(t > 0, 0.45 * t + 0.55 * t * t, -0.3 * t)
    return p.dome_y + p.dome_step * _step(x, 0.1) + p.dome_drop * fall


def _heart(p, x, y, dome):
    """Returns the heart's field: ventricles with the apex to the image's right, right atrium, outflow tract."""
    tilt = np.deg2rad(p.heart_tilt_deg)
    cos, sin = float(np.cos(tilt)), float(np.sin(tilt))
    u, v = x - p.heart_x, y - p.dome_y + 0.20
    size = p.heart_size * (p.lung_axis + p.lung_width) / 0.74
    ventricles = 1 - _length((cos * u + sin * v) / (0.40 * size), (cos * v - sin * u) / (0.28 * size))
    atrium = 0.20 * size - _length(x + 0.04, y - p.dome_y + 0.25)
    outflow = 0.14 - _length(x - 0.07, y - p.dome_y + 0.42)
    return _meet(_join(_join(ventricles * 0.27, atrium, 0.05), outflow, 0.08), dome + 0.05 - y, 0.05)


def _ribs(p, s, y, cage, inside):
    """Returns the fields of the ribs' back and front parts: curves from the spine out and down, then back in."""
    reach = s / np.maximum(cage, 0.2)
    bend = reach * (reach - 0.30) * (1 + 4 * np.clip(-0.38 - y, 0, 0.3))
    level = (y - p.rib_y - p.rib_slope * bend) / (1 + 0.35 * bend)
    back = np.minimum(_bands(level, 0.126, p.rib_width, int(p.rib_count)), np.minimum(inside, s - 0.05))
    level = (y - p.rib_y - 0.02 - 0.30 * np.sqrt(np.maximum(0.80 - s, 0))) / (1 + 0.10 * s)
    ends = np.minimum(inside, s - 0.30 - 0.12 * np.clip(y, 0, 1))
    return back, _meet(_bands(level, 0.126, 1.05 * p.rib_width, int(p.rib_count) - 4), ends, 0.012)


def _bands(level, spacing, half_width, count):
    """Returns the field of `count` bands, one at each whole multiple of the spacing."""
    index = np.clip(np.rint(level / spacing), 0, count - 1)
    return half_width - np.abs(level - index * spacing)


def _density(p, f, x, y, pixel):
    """Returns the absorption at each pixel, -log of the transmitted share of the beam, (H, W)."""
    soft = 0.5 * pixel + 0.004
    body = _round(f.body, 0.35)
    lung = _step(f.wall, soft + 0.004) * _step(f.dome - y, soft + 0.006) * _step(f.medial, 0.05)
    heart = _step(f.heart, soft + 0.006) * (0.7 + 0.3 * _round(f.heart, 0.25))
    air = lung * (0.62 + 0.38 * _round(f.lung, 0.25)) * (1 - 0.55 * heart)
    total = body * (1.42 + 0.15 * y - 0.92 * air)
    vessels = np.minimum(p.heart_vessels + 0.015 - np.abs(x - 0.015), y + 0.72)
    knob = 0.075 - _length(x - p.heart_vessels, y + 0.27)
    trunk = 0.085 - _length(x - p.heart_vessels - 0.01, y + 0.09)
    vessels = _step(np.maximum(np.maximum(vessels, knob), trunk), 0.022) * _step(y + 0.6, 0.3)
    below = _step(y - f.dome + 0.01, soft + 0.006)
    belly = below * _step(p.lung_axis + p.lung_width + 0.03 - f.s, 0.07) * (0.40 + 0.08 * _step(-x, 0.2))
    total += body * np.maximum(np.maximum(0.53 * heart, belly), 0.30 * vessels * (1 - below))
    bubble = 1 - _length((x - 0.36) / 0.17, (y - p.dome_y - 0.21) / 0.09)
    total -= 0.35 * max(p.dome_bubble, 0) / 0.6 * _step(bubble, 0.3) * below
    total -= 0.28 * _step(np.minimum(0.038 - np.abs(x + 0.012), -0.14 - y), 0.022)  # the trachea's air
    breast = 1 - _length((f.s - 0.45) / 0.34, (y - 0.28) / 0.30)
    total += max(p.body_breast, 0) * _step(breast, 0.25)
    return np.maximum(total, 0) + _bone_density(p, f, x, y, soft)


def _bone_density(p, f, x, y, soft):
    """Returns the absorption of the bones: bright rims of ribs and clavicles, vertebrae with discs and pedicles."""
    ribs = _bone(f.back_ribs, soft) + 0.6 * _bone(f.front_ribs, soft) * _step(f.s - 0.42, 0.12)
    ribs = p.rib_white * ribs * _step(0.75 - y, 0.25)
    clavicles = 0.34 * _bone(f.clavicles, soft)
    phase = f.disc - np.floor(f.disc)
    gap = np.exp(-(((phase - 0.5) / 0.09) ** 2))
    pedicle = np.exp(-(((np.abs(f.spine_x) - 0.62 * p.spine_width) / 0.016) ** 2) - ((phase - 0.88) / 0.13) ** 2)
    process = np.exp(-((f.spine_x / 0.010) ** 2) - ((phase - 0.20) / 0.20) ** 2)
    spine = _step(f.spine, soft + 0.004) * (0.34 - 0.16 * gap + 0.16 * pedicle + 0.12 * process)
    blade = _meet(np.minimum(f.s - 0.68 - 0.12 * (y + 0.28), 0.72 - f.s - 0.45 * y), y + 0.60, 0.08)
    scapula = 0.08 * _step(blade, 0.012) * (1.5 - _step(blade - 0.02, 0.02))
    shaft = np.clip(y + 0.55, 0, 1.5)
    thick = 0.085 - 0.040 * np.clip(shaft / 0.2, 0, 1)  # a round head, then the shaft
    humerus = thick - _length(f.s - 0.94 - p.body_arm * 0.8 * shaft, y + 0.55 - shaft)
    return ribs + clavicles + spine + (scapula + 0.30 * _bone(humerus, soft)) * _step(f.body, 0.04)


def _lines(rng, p) -> tuple[Image.Image, Image.Image]:
    """Returns two canvases over x and y in [-1, 1], 512 by 512 grey: lung vessels, and metal (marker, pacemaker)."""
    vessels, metal = Image.new("L", (_CANVAS, _CANVAS)), Image.new("L", (_CANVAS, _CANVAS))
    pen = ImageDraw.Draw(vessels)
    for side, height in ((-1, 0.0), (1, -0.04)):
        _grow(rng, pen, side * (p.heart_vessels + 0.03), height, side)
    pen = ImageDraw.Draw(metal)
    if p.extra_marker < 0.6:
        letter, place = ("R", -0.78) if p.extra_marker < 0.35 else ("L", 0.78)
        font = ImageFont.load_default(size=34)
        pen.text(((place + 1) * _CANVAS / 2, 0.10 * _CANVAS), letter, fill=255, anchor="mm", font=font)
    if p.extra_pacemaker < 0.15:
        pen.arc([238, 150, 420, 400], start=135, end=300, fill=150, width=4)
        pen.rounded_rectangle([370, 150, 416, 188], radius=14, fill=190)
    return vessels, metal


def _grow(rng, pen, x, y, side):
    """Draws a lung's vessels from the hilum outwards; every other segment splits in two, thinner and fainter."""
    angle = np.array([-1.25, -0.75, -0.2, 0.3, 0.75, 1.25]) + rng.normal(0, 0.12, 6)
    x, y = np.full(6, x), y + 0.10 * np.linspace(-1, 1, 6)
    for width, length, twigs in _TWIGS:
        step = length * rng.uniform(0.8, 1.5, angle.size)
        to_x, to_y = x + side * step * np.cos(angle), y + step * np.sin(angle)
        for ends in ((np.stack([x, y, to_x, to_y], 1) + 1) * (_CANVAS / 2)).tolist():
            pen.line(ends, fill=70 + 20 * width, width=width)
        angle, x, y = np.repeat(angle, twigs), np.repeat(to_x, twigs), np.repeat(to_y, twigs)
        fork = np.tile([-0.35, 0.35], angle.size // 2) if twigs == 2 else 0
        angle = 0.95 * angle + fork * rng.uniform(0.4, 1.3, angle.size) + rng.normal(0, 0.15, angle.size)


def _look_up(lines, x, y, pixel, shapes):
    """Returns the density of vessels (inside the lungs) and metal at each pixel, (H, W)."""
    row, column = (np.clip((axis + 1) * (_CANVAS / 2), 0, _CANVAS - 1).astype(np.int32) for axis in (y, x))
    blur = ImageFilter.GaussianBlur(max(1.2, 0.35 * pixel * _CANVAS / 2))
    vessels, metal = (canvas.filter(blur) if canvas.getbbox() else canvas for canvas in lines)
    lungs = _step(shapes.lung, 0.03) * (1 - 0.6 * _step(shapes.heart, 0.02))
    vessels, metal = (np.asarray(canvas)[row, column] * np.float32(1 / 255) for canvas in (vessels, metal))
    return 0.5 * vessels * lungs + 1.6 * metal


def _expose(rng, p, density, pixel):
    """Returns the image of a density after film exposure and windowing, (H, W) uint8."""
    dose = 10**p.film_dose
    photons = dose * np.exp(-density)
    photons += np.sqrt(photons) * rng.standard_normal(photons.shape, dtype=np.float32)
    seen = -np.log(np.maximum(photons, 1) / np.float32(dose))
    sigma = np.hypot(p.film_blur / pixel, 0.45)
    reach = int(np.ceil(2.5 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).tolist()
    for axis in (0, 1):
        padded = np.pad(seen, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        length = seen.shape[axis]
        seen = sum(tap * padded.take(np.arange(i, i + length), axis) for i, tap in enumerate(taps))
    shown = np.clip((seen - p.film_low) / (p.film_high - p.film_low), 0, None)
    shown = np.tanh(1.25 * shown**p.film_gamma) / float(np.tanh(1.25))
    return np.clip(shown * 255, 0, 255).round().astype(np.uint8)


def _step(field, width):
    """Returns 0 outside and 1 inside, with a smooth edge of the given half width."""
    t = np.clip(field / (2 * width) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _round(field, depth):
    """Returns the thickness of a body with a circular rim of the given depth, in [0, 1]."""
    t = np.clip(field / depth, 0, 1)
    return np.sqrt(t * (2 - t))


def _bone(field, soft):
    """Returns the appearance of a long bone: a bright rim of cortex around a less dense inside."""
    return _step(field, soft) * (1.15 - 0.35 * _step(field - 0.010, 0.010))


def _length(a, b):
    """Returns the length of the vector (a, b), several times faster than np.hypot."""
    return np.sqrt(a * a + b * b)


def _meet(a, b, radius):
    """Returns the field of the overlap of two shapes with rounded corners."""
    return 0.5 * (a + b - np.sqrt((a - b) ** 2 + radius * radius))


def _join(a, b, radius):
    """Returns the field of two shapes together with rounded corners."""
    return 0.5 * (a + b + np.sqrt((a - b) ** 2 + radius * radius))
