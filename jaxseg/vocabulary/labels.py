"""Label sets and groups of the published models, and the selection of classes by name."""

import difflib
import json
import re
from pathlib import Path

# CXAS, Seibold et al. 2023. The position of a label is its channel in the published network.
CXAS = (
    "spine",
    "cervical spine",
    "thoracic spine",
    "lumbar spine",
    "vertebrae C1",
    "vertebrae C2",
    "vertebrae C3",
    "vertebrae C4",
    "vertebrae C5",
    "vertebrae C6",
    "vertebrae C7",
    "vertebrae T1",
    "vertebrae T2",
    "vertebrae T3",
    "vertebrae T4",
    "vertebrae T5",
    "vertebrae T6",
    "vertebrae T7",
    "vertebrae T8",
    "vertebrae T9",
    "vertebrae T10",
    "vertebrae T11",
    "vertebrae T12",
    "vertebrae L1",
    "vertebrae L2",
    "vertebrae L3",
    "vertebrae L4",
    "vertebrae L5",
    "rib_cartilage",
    "sternum",
    "clavicles",
    "clavicle left",
    "clavicle right",
    "scapulas",
    "scapula left",
    "scapula right",
    "posterior 12th rib right",
    "posterior 12th rib left",
    "anterior 11th rib right",
    "posterior 11th rib right",
    "anterior 11th rib left",
    "posterior 11th rib left",
    "anterior 10th rib right",
    "posterior 10th rib right",
    "anterior 10th rib left",
    "posterior 10th rib left",
    "anterior 9th rib right",
    "posterior 9th rib right",
    "anterior 9th rib left",
    "posterior 9th rib left",
    "anterior 8th rib right",
    "posterior 8th rib right",
    "anterior 8th rib left",
    "posterior 8th rib left",
    "anterior 7th rib right",
    "posterior 7th rib right",
    "anterior 7th rib left",
    "posterior 7th rib left",
    "anterior 6th rib right",
    "posterior 6th rib right",
    "anterior 6th rib left",
    "posterior 6th rib left",
    "anterior 5th rib right",
    "posterior 5th rib right",
    "anterior 5th rib left",
    "posterior 5th rib left",
    "anterior 4th rib right",
    "posterior 4th rib right",
    "anterior 4th rib left",
    "posterior 4th rib left",
    "anterior 3rd rib right",
    "posterior 3rd rib right",
    "anterior 3rd rib left",
    "posterior 3rd rib left",
    "anterior 2nd rib right",
    "posterior 2nd rib right",
    "anterior 2nd rib left",
    "posterior 2nd rib left",
    "anterior 1st rib right",
    "posterior 1st rib right",
    "anterior 1st rib left",
    "posterior 1st rib left",
    "12th rib",
    "posterior 11th rib",
    "anterior 11th rib",
    "posterior 10th rib",
    "anterior 10th rib",
    "posterior 9th rib",
    "anterior 9th rib",
    "posterior 8th rib",
    "anterior 8th rib",
    "posterior 7th rib",
    "anterior 7th rib",
    "posterior 6th rib",
    "anterior 6th rib",
    "posterior 5th rib",
    "anterior 5th rib",
    "posterior 4th rib",
    "anterior 4th rib",
    "posterior 3rd rib",
    "anterior 3rd rib",
    "posterior 2nd rib",
    "anterior 2nd rib",
    "posterior 1st rib",
    "anterior 1st rib",
    "diaphragm",
    "left hemidiaphragm",
    "right hemidiaphragm",
    "stomach",
    "small bowel",
    "duodenum",
    "liver",
    "pancreas",
    "kidney left",
    "kidney right",
    "cardiomediastinum",
    "upper mediastinum",
    "lower mediastinum",
    "anterior mediastinum",
    "middle mediastinum",
    "posterior mediastinum",
    "heart",
    "heart atrium left",
    "heart atrium right",
    "heart myocardium",
    "heart ventricle left",
    "heart ventricle right",
    "aorta",
    "ascending aorta",
    "descending aorta",
    "aortic arch",
    "pulmonary artery",
    "inferior vena cava",
    "esophagus",
    "lung",
    "right lung",
    "left lung",
    "lung base",
    "mid zone lung",
    "upper zone lung",
    "apical zone lung",
    "right upper zone lung",
    "right mid zone lung",
    "right lung base",
    "right apical zone lung",
    "left upper zone lung",
    "left mid zone lung",
    "left lung base",
    "left apical zone lung",
    "lung lower lobe left",
    "lung upper lobe left",
    "lung lower lobe right",
    "lung middle lobe right",
    "lung upper lobe right",
    "trachea",
    "tracheal bifurcation",
    "breast",
    "breast left",
    "breast right",
)

# Group -> indices, in the order of the original. Five names are both a group and a label: they mean the group, as in
# the original. "label:trachea" means only the label.
CXAS_GROUPS = {
    "cervical spine": tuple(range(4, 10)),
    "thoracic spine": (2, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22),
    "lumbar spine": (3, 23, 24, 25, 26, 27),
    "diaphragm": (105, 106, 107),
    "trachea": (154, 155),
    "all vertebrae": (23, 24, 25, 26, 27, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 4, 5, 6, 7, 8, 9),
    "clavicle set": (30, 31, 32),
    "scapula set": (33, 34, 35),
    "ribs": tuple(range(36, 82)),
    "ribs super": (82, 82, 84, 83, 86, 85, 88, 87, 90, 89, 92, 91, 94, 93, 96, 95, 98, 97, 100, 99, 102, 101, 104, 103),
    "mediastinum": tuple(range(115, 121)),
    "abdomen": tuple(range(108, 115)),
    "heart region": tuple(range(121, 127)),
    "breast tissue": (157, 158),
    "lung zones": tuple(range(141, 149)),
    "lung halves": (135, 136),
    "vessels": (121, 128, 129, 130, 131, 132),
    "lung lobes": tuple(range(149, 154)),
}

# Since version 0.0.20 of the original, two groups contain the vertebra C7, which earlier versions left out.
CXAS_GROUPS_WITH_C7 = CXAS_GROUPS | {
    "cervical spine": (*CXAS_GROUPS["cervical spine"], 10),
    "all vertebrae": (*CXAS_GROUPS["all vertebrae"], 10),
}

GROUPS = {CXAS: CXAS_GROUPS}
# Name of a version of the groups -> label set -> groups. "original" are those of CXAS up to 0.0.16.
GROUP_VERSIONS = {"original": GROUPS, "cxas-0.0.20": {CXAS: CXAS_GROUPS_WITH_C7}}
_OTHER = {"left": "right", "right": "left"}
_SIDES = re.compile(r"(?<![a-z])(left|right)(?![a-z])")  # in lower case, as words
_MAX_NAMES = 2**26  # bytes of a file of names


def numbered(count: int) -> tuple[str, ...]:
    """Returns `count` placeholder names.

    >>> numbered(2)
    ('class_000', 'class_001')
    """
    return tuple(f"class_{i:03d}" for i in range(count))


def check_groups(groups: str) -> str:
    """Returns the name of a version of the groups.

    Raises:
      ValueError: there is no such version.
    """
    if groups not in GROUP_VERSIONS:
        raise ValueError(f"unknown groups {groups!r}; known: {', '.join(GROUP_VERSIONS)}")
    return groups


def select(
    names: tuple[str, ...], wanted: str | list[str] | tuple[str, ...] | None, *, groups: str = "original"
) -> tuple[int, ...]:
    """Returns the indices of classes, each once, in the order of the label set.

    Args:
      names: (K,) label set of a model.
      wanted: names of labels or groups, as a list or as one string separated by commas. Upper and lower case are the
        same. "label:NAME" never means a group. None means all classes.
      groups: key of `GROUP_VERSIONS`: "original" are the groups of CXAS up to 0.0.16; "cxas-0.0.20" adds the vertebra
        C7 to "cervical spine" and "all vertebrae".

    Returns:
      Indices from 0 to K - 1, in ascending order.

    Raises:
      ValueError: no name was given, or a name or the version of the groups is unknown; the message suggests similar
        names.

    >>> select(CXAS, "heart, lung halves")
    (121, 135, 136)
    >>> select(CXAS, "trachea"), select(CXAS, "label:trachea")  # the group, and the label of the same name
    ((154, 155), (154,))
    """
    if wanted is None:
        return tuple(range(len(names)))
    parts = [str(part).strip() for part in (wanted.split(",") if isinstance(wanted, str) else wanted)]
    parts = [part for part in parts if part]
    if not parts:
        raise ValueError("no class was named; give names of labels or groups, separated by commas")
    labels = {name.lower(): (i,) for i, name in enumerate(names)}
    of_version = GROUP_VERSIONS[check_groups(groups)].get(names, {})
    known = {f"label:{name}": members for name, members in labels.items()} | labels
    known |= {name.lower(): members for name, members in of_version.items()}
    unknown = [part for part in parts if part.lower() not in known]
    if unknown:
        raise ValueError("; ".join(_unknown(part, known) for part in unknown))
    return tuple(sorted({i for part in parts for i in known[part.lower()]}))


def mirrored(names: tuple[str, ...]) -> tuple[int | None, ...]:
    """Returns which class each class becomes in a mirrored image, by the words "left" and "right" in the names.

    Args:
      names: (K,) label set of a model.

    Returns:
      K indices: of the class whose name has left and right exchanged; of the class itself if its name has neither word;
      None if there is no such class, as for "lung middle lobe right".

    >>> mirrored(("heart", "right lung", "left lung", "lung middle lobe right"))
    (0, 2, 1, None)
    """
    places = {name.lower(): i for i, name in enumerate(names)}
    others = [_SIDES.sub(lambda word: _OTHER[word[0]], name.lower()) for name in names]
    return tuple(
        i if other == name.lower() else places.get(other)
        for i, (name, other) in enumerate(zip(names, others, strict=True))
    )


def read_names(path: Path) -> tuple[str, ...]:
    """Reads class names from a JSON file.

    Args:
      path: file with a list of names, a mapping from index to name, or such a mapping under the key "label_dict", as in
        the data set's `paxray.json`.

    Returns:
      (K,) names.

    Raises:
      ValueError: the file is not JSON, or holds no such names.
      OSError: the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_NAMES).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file in UTF-8: {error}") from None
    if isinstance(content, dict):
        content = content.get("label_dict", content)
    if isinstance(content, dict):
        content = [content.get(str(i)) for i in range(len(content))]
    if not isinstance(content, list) or not content or not all(isinstance(n, str) and n for n in content):
        raise ValueError(f'{path} must hold a list of names, or "label_dict": {{"0": "first name", "1": ...}}')
    return tuple(content)


def _unknown(name: str, known: dict) -> str:
    near = difflib.get_close_matches(name.lower(), [k for k in known if not k.startswith("label:")], 3, 0.5)
    hint = f"; did you mean {', '.join(repr(n) for n in near)}?" if near else ""
    return f"unknown class {name!r}{hint} (`jaxseg models NAME` lists the classes and groups)"
