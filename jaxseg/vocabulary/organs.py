"""The organs of SegAE: classes of the DAP-Atlas, their names in TotalSegmentator, and look-up by name (pure data)."""

import dataclasses
import difflib
import re

# Class of the DAP-Atlas and row of the text embeddings | its name | name in TotalSegmentator v1 | in v2
_TABLE = """
0 | Background |  |
1 | Left to annotate |  |
2 | muscles |  |
3 | fat |  |
4 | abdominal tissue |  |
5 | mediastinal tissue |  |
6 | esophagus | esophagus | esophagus
7 | stomach | stomach | stomach
8 | small bowel | small_bowel | small_bowel
9 | duodenum | duodenum | duodenum
10 | colon | colon | colon
11 | rectum |  |
12 | gallbladder | gallbladder | gallbladder
13 | liver | liver | liver
14 | pancreas | pancreas | pancreas
15 | kidney left | kidney_left | kidney_left
16 | kidney right | kidney_right | kidney_right
17 | bladder | urinary_bladder | urinary_bladder
18 | gonads |  |
19 | prostate |  | prostate
20 | uterocervix |  |
21 | uterus |  |
22 | breast left |  |
23 | breast right |  |
24 | spinal canal |  |
25 | brain | brain | brain
26 | spleen | spleen | spleen
27 | adrenal gland left | adrenal_gland_left | adrenal_gland_left
28 | adrenal gland right | adrenal_gland_right | adrenal_gland_right
29 | thyroid left |  |
30 | thyroid right |  |
31 | thymus |  |
32 | gluteus maximus left | gluteus_maximus_left | gluteus_maximus_left
33 | gluteus maximus right | gluteus_maximus_right | gluteus_maximus_right
34 | gluteus medius left | gluteus_medius_left | gluteus_medius_left
35 | gluteus medius right | gluteus_medius_right | gluteus_medius_right
36 | gluteus minimus left | gluteus_minimus_left | gluteus_minimus_left
37 | gluteus minimus right | gluteus_minimus_right | gluteus_minimus_right
38 | iliopsoas left | iliopsoas_left | iliopsoas_left
39 | iliopsoas right | iliopsoas_right | iliopsoas_right
40 | autochthon left | autochthon_left | autochthon_left
41 | autochthon right | autochthon_right | autochthon_right
42 | skin |  |
43 | vertebrae C1 | vertebrae_C1 | vertebrae_C1
44 | vertebrae C2 | vertebrae_C2 | vertebrae_C2
45 | vertebrae C3 | vertebrae_C3 | vertebrae_C3
46 | vertebrae C4 | vertebrae_C4 | vertebrae_C4
47 | vertebrae C5 | vertebrae_C5 | vertebrae_C5
48 | vertebrae C6 | vertebrae_C6 | vertebrae_C6
49 | vertebrae C7 | vertebrae_C7 | vertebrae_C7
50 | vertebrae T1 | vertebrae_T1 | vertebrae_T1
51 | vertebrae T2 | vertebrae_T2 | vertebrae_T2
52 | vertebrae T3 | vertebrae_T3 | vertebrae_T3
53 | vertebrae T4 | vertebrae_T4 | vertebrae_T4
54 | vertebrae T5 | vertebrae_T5 | vertebrae_T5
55 | vertebrae T6 | vertebrae_T6 | vertebrae_T6
56 | vertebrae T7 | vertebrae_T7 | vertebrae_T7
57 | vertebrae T8 | vertebrae_T8 | vertebrae_T8
58 | vertebrae T9 | vertebrae_T9 | vertebrae_T9
59 | vertebrae T10 | vertebrae_T10 | vertebrae_T10
60 | vertebrae T11 | vertebrae_T11 | vertebrae_T11
61 | vertebrae T12 | vertebrae_T12 | vertebrae_T12
62 | vertebrae L1 | vertebrae_L1 | vertebrae_L1
63 | vertebrae L2 | vertebrae_L2 | vertebrae_L2
64 | vertebrae L3 | vertebrae_L3 | vertebrae_L3
65 | vertebrae L4 | vertebrae_L4 | vertebrae_L4
66 | vertebrae L5 | vertebrae_L5 | vertebrae_L5
67 | costa 1 left | rib_left_1 | rib_left_1
68 | costa 1 right | rib_right_1 | rib_right_1
69 | costa 2 left | rib_left_2 | rib_left_2
70 | costa 2 right | rib_right_2 | rib_right_2
71 | costa 3 left | rib_left_3 | rib_left_3
72 | costa 3 right | rib_right_3 | rib_right_3
73 | costa 4 left | rib_left_4 | rib_left_4
74 | costa 4 right | rib_right_4 | rib_right_4
75 | costa 5 left | rib_left_5 | rib_left_5
76 | costa 5 right | rib_right_5 | rib_right_5
77 | costa 6 left | rib_left_6 | rib_left_6
78 | costa 6 right | rib_right_6 | rib_right_6
79 | costa 7 left | rib_left_7 | rib_left_7
80 | costa 7 right | rib_right_7 | rib_right_7
81 | costa 8 left | rib_left_8 | rib_left_8
82 | costa 8 right | rib_right_8 | rib_right_8
83 | costa 9 left | rib_left_9 | rib_left_9
84 | costa 9 right | rib_right_9 | rib_right_9
85 | costa 10 left | rib_left_10 | rib_left_10
86 | costa 10 right | rib_right_10 | rib_right_10
87 | costa 11 left | rib_left_11 | rib_left_11
88 | costa 11 right | rib_right_11 | rib_right_11
89 | costa 12 left | rib_left_12 | rib_left_12
90 | costa 12 right | rib_right_12 | rib_right_12
91 | rib_cartilage |  | costal_cartilages
92 | sternum |  | sternum
93 | clavicle left | clavicula_left | clavicula_left
94 | clavicle right | clavicula_right | clavicula_right
95 | scapula left | scapula_left | scapula_left
96 | scapula right | scapula_right | scapula_right
97 | humerus left | humerus_left | humerus_left
98 | humerus right | humerus_right | humerus_right
99 | skull |  | skull
100 | hip left | hip_left | hip_left
101 | hip right | hip_right | hip_right
102 | sacrum | sacrum | sacrum
103 | femur left | femur_left | femur_left
104 | femur right | femur_right | femur_right
105 | heart |  | heart
106 | heart atrium left | heart_atrium_left |
107 | heart tissue |  |
108 | heart atrium right | heart_atrium_right |
109 | heart myocardium | heart_myocardium |
110 | heart ventricle left | heart_ventricle_left |
111 | heart ventricle right | heart_ventricle_right |
112 | iliac artery left | iliac_artery_left | iliac_artery_left
113 | iliac artery right | iliac_artery_right | iliac_artery_right
114 | aorta | aorta | aorta
115 | iliac vena left | iliac_vena_left | iliac_vena_left
116 | iliac vena right | iliac_vena_right | iliac_vena_right
117 | inferior vena cava | inferior_vena_cava | inferior_vena_cava
118 | portal vein and splenic vein | portal_vein_and_splenic_vein | portal_vein_and_splenic_vein
119 | celiac trunk |  |
120 | lung lower lobe left | lung_lower_lobe_left | lung_lower_lobe_left
121 | lung upper lobe left | lung_upper_lobe_left | lung_upper_lobe_left
122 | lung lower lobe right | lung_lower_lobe_right | lung_lower_lobe_right
123 | lung middle lobe right | lung_middle_lobe_right | lung_middle_lobe_right
124 | lung upper lobe right | lung_upper_lobe_right | lung_upper_lobe_right
125 | bronchie |  |
126 | trachea | trachea | trachea
127 | pulmonary artery | pulmonary_artery |
128 | cheek left |  |
129 | cheek right |  |
130 | eyeball left |  |
131 | eyeball right |  |
132 | nasal cavity |  |
133 | artery common carotid right |  | common_carotid_artery_right
134 | artery common carotid left |  | common_carotid_artery_left
135 | sternum manubrium |  |
136 | artery internal carotid right |  |
137 | artery internal carotid left |  |
138 | internal jugular vein right |  |
139 | internal jugular vein left |  |
140 | artery brachiocephalic |  | brachiocephalic_trunk
141 | vein brachiocephalic right |  | brachiocephalic_vein_right
142 | vein brachiocephalic left |  | brachiocephalic_vein_left
143 | artery subclavian right |  | subclavian_artery_right
144 | artery subclavian left |  | subclavian_artery_left
"""


@dataclasses.dataclass(frozen=True)
class Organ:
    """A class of the DAP-Atlas (Jaus et al. 2023, arXiv:2307.13375).

    Attributes:
      id: class, 0 to 144; also the row of its text embedding.
      name: name in the DAP-Atlas.
      totalsegmentator_v1, totalsegmentator_v2: name of the same structure in TotalSegmentator; "" if it has none.
    """

    id: int
    name: str
    totalsegmentator_v1: str = ""
    totalsegmentator_v2: str = ""


def _parsed(line: str) -> Organ:
    number, *names = (part.strip() for part in line.split("|"))
    return Organ(int(number), *names)


ORGANS = tuple(map(_parsed, _TABLE.strip().splitlines()))
NAMES = tuple(organ.name for organ in ORGANS)

# The two names for which SegAE's own table has another class than the DAP-Atlas.
ORIGINAL = {"face": 128, "urinary_bladder": 19}

# Names of TotalSegmentator that have no class in the DAP-Atlas -> the closest structure that has one.
_ABSENT = {
    "atrial_appendage_left": "it is a part of 'heart atrium left'",
    "face": "there are 'cheek left' and 'cheek right'; names=original means the left cheek, as in the original",
    "kidney_cyst_left": "there is 'kidney left'",
    "kidney_cyst_right": "there is 'kidney right'",
    "pulmonary_vein": "there is 'pulmonary artery'",
    "spinal_cord": "there is 'spinal canal', which is wider",
    "superior_vena_cava": "there is 'inferior vena cava'",
    "thyroid_gland": "there are its halves, 'thyroid left' and 'thyroid right'",
    "vertebrae_S1": "it is a part of 'sacrum'",
}
_READINGS = ("right", "original")


def find(organ: int | str, *, names: str = "right") -> Organ:
    """Returns an organ by its class, or by its name in the DAP-Atlas or in TotalSegmentator v1 or v2.

    Upper and lower case, the order of the words and their separators do not matter: "left kidney", "kidney_left".

    Args:
      organ: a class from 0 to 144 (an int or its digits), or a name.
      names: "right", or "original" to reproduce SegAE's table, in which `urinary_bladder` is the prostate and `face`
        is the left cheek.

    Raises:
      ValueError: the organ is unknown; the nearest names are suggested.

    Example:
      >>> find("kidney_left").id, find("left kidney").name, find(13).name
      (15, 'kidney left', 'liver')
    """
    if names not in _READINGS:
        raise ValueError(f"names must be one of {', '.join(_READINGS)}, got {names!r}")
    if isinstance(organ, str):
        if not re.fullmatch(r"\s*\d{1,9}\s*", organ, re.ASCII):
            return _named(organ, names)
        organ = int(organ)
    if isinstance(organ, bool) or not hasattr(organ, "__index__"):
        raise ValueError(f"an organ is a name or a whole number from 0 to {len(ORGANS) - 1}, got {organ!r}")
    if not 0 <= organ < len(ORGANS):
        raise ValueError(f"there is no organ {organ}; classes are 0 to {len(ORGANS) - 1}")
    return ORGANS[organ]


def totalsegmentator(version: int, *, names: str = "right") -> dict[str, Organ | None]:
    """Returns the names of TotalSegmentator's task `total`, sorted, each with its organ.

    Args:
      version: 1 (104 names) or 2 (117 names).
      names: as in `find`.

    Returns:
      Name -> organ; None for a name that has no class in the DAP-Atlas.

    Raises:
      ValueError: an argument has another value.

    Example:
      >>> len(totalsegmentator(1)), totalsegmentator(2)["costal_cartilages"].name, totalsegmentator(1)["face"]
      (104, 'rib_cartilage', None)
    """
    if version not in (1, 2) or names not in _READINGS:
        raise ValueError(f"version must be 1 or 2 and names one of {', '.join(_READINGS)}, got {version}, {names!r}")
    found = {getattr(organ, f"totalsegmentator_v{version}"): organ for organ in ORGANS}
    del found[""]
    found |= {name: None for name in _ABSENT if (name == "face") == (version == 1)}
    if names == "original":
        found |= {name: ORGANS[i] for name, i in ORIGINAL.items() if name in found}
    return {name: found[name] for name in sorted(found, key=_natural)}


def _named(name: str, names: str) -> Organ:
    key = _key(name)
    if names == "original" and key in _ORIGINAL:
        return _ORIGINAL[key]
    if key in _BY_KEY:
        return _BY_KEY[key]
    absent = next((there for absent, there in _ABSENT.items() if _key(absent) == key), None)
    if absent:
        raise ValueError(f"the DAP-Atlas has no {name!r}: {absent}")
    near = difflib.get_close_matches(" ".join(_key(name)), _SPELLINGS, 5, 0.6)
    found = dict.fromkeys(_SPELLINGS[spelling] for spelling in near)
    hint = f"; did you mean {', '.join(f'{each.name!r} ({each.id})' for each in list(found)[:3])}?" if found else ""
    raise ValueError(f"unknown organ {name[:100]!r}{hint}")


def _key(name: str) -> tuple[str, ...]:
    """Returns the words of a name, sorted."""
    return tuple(sorted(re.split(r"[\s_-]+", name[:100].strip().lower())))


def _natural(name: str) -> tuple:
    """Returns a key that sorts rib_left_2 before rib_left_10."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name))


def _all_names(organ: Organ) -> tuple[str, ...]:
    every = (organ.name, organ.totalsegmentator_v1, organ.totalsegmentator_v2)
    return tuple(name for name in dict.fromkeys(every) if name)


_BY_KEY = {_key(name): organ for organ in ORGANS for name in _all_names(organ)}
_ORIGINAL = {_key(name): ORGANS[i] for name, i in ORIGINAL.items()}
_SPELLINGS = {" ".join(key): organ for key, organ in _BY_KEY.items()}
