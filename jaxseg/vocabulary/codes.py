"""Codes of the segmented structures: SNOMED CT if DICOM lists a code, otherwise the private scheme 99JAXSEG.

A structure has a category, a type and modifiers. Sides are modifiers (left lung: "Lung", "Left"). Only structures with
a specific term have the side in their type (left atrium, middle lobe of right lung). The meanings are those of
DICOM PS3.16, as in `pydicom.sr.codedict`.
"""

import dataclasses
import hashlib
import re

SNOMED, PRIVATE = "SCT", "99JAXSEG"
LONG_STRING = 64  # characters; the limit of DICOM's value representation LO


@dataclasses.dataclass(frozen=True)
class Code:
    """The code of a concept.

    Attributes:
      value: at most 16 characters.
      scheme: designator of the coding scheme, such as "SCT".
      meaning: at most 64 characters.
    """

    value: str
    scheme: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class SegmentCode:
    """The codes of the structure that a segment shows.

    Attributes:
      category: such as "Anatomical Structure".
      type: such as "Lung".
      modifiers: side, part and number, in this order, as far as they apply.
    """

    category: Code
    type: Code
    modifiers: tuple[Code, ...] = ()


def _snomed(value: str, meaning: str) -> Code:
    return Code(value, SNOMED, meaning)


def long_string(text: str) -> str:
    """Returns text in a form that DICOM's value representation LO allows.

    The result has from 1 to 64 printable characters and no backslash; characters that are not allowed become "_".
    """
    kept = "".join(c if c.isprintable() and c != "\\" else "_" for c in text)
    return kept.strip()[:LONG_STRING].strip() or "_"


def private_code(text: str) -> Code:
    """Returns the code of a text in the scheme 99JAXSEG; the same text always has the same value."""
    value = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    return Code(value, PRIVATE, long_string(text))


ANATOMY = _snomed("91723000", "Anatomical Structure")
LEFT, RIGHT = _snomed("7771000", "Left"), _snomed("24028007", "Right")
_SIDES = {"left": LEFT, "right": RIGHT}
_PARTS = {
    "anterior": _snomed("255549009", "Anterior"),
    "posterior": _snomed("255551008", "Posterior"),
    "upper": _snomed("264217000", "Superior"),
    "lower": _snomed("261089000", "Inferior"),
    "middle": private_code("middle"),
}
_RIB = _snomed("113197003", "Rib")
_MEDIASTINUM = _snomed("72410000", "Mediastinum")

# Structures without a side, or with the side in the term.
_SINGLE = {
    "spine": _snomed("421060004", "Spine"),
    "cervical spine": _snomed("122494005", "Cervical spine"),
    "thoracic spine": _snomed("122495006", "Thoracic spine"),
    "lumbar spine": _snomed("122496007", "Lumbar spine"),
    "vertebrae": _snomed("51282000", "Vertebra"),
    "sternum": _snomed("56873002", "Sternum"),
    "stomach": _snomed("69695003", "Stomach"),
    "small bowel": _snomed("30315005", "Small intestine"),
    "duodenum": _snomed("38848004", "Duodenum"),
    "liver": _snomed("10200004", "Liver"),
    "pancreas": _snomed("15776009", "Pancreas"),
    "mediastinum": _MEDIASTINUM,
    "heart": _snomed("80891009", "Heart"),
    "heart atrium left": _snomed("82471001", "Left atrium"),
    "heart atrium right": _snomed("73829009", "Right atrium"),
    "heart ventricle left": _snomed("87878005", "Left ventricle"),
    "heart ventricle right": _snomed("53085002", "Right ventricle"),
    "aorta": _snomed("15825003", "Aorta"),
    "ascending aorta": _snomed("54247002", "Ascending aorta"),
    "descending aorta": _snomed("281130003", "Descending aorta"),
    "aortic arch": _snomed("57034009", "Aortic arch"),
    "pulmonary artery": _snomed("81040000", "Pulmonary artery"),
    "superior vena cava": _snomed("48345005", "Superior vena cava"),
    "inferior vena cava": _snomed("64131007", "Inferior vena cava"),
    "esophagus": _snomed("32849002", "Esophagus"),
    "lung middle lobe right": _snomed("72481006", "Middle lobe of right lung"),
    "trachea": _snomed("44567001", "Trachea"),
    "tracheal bifurcation": _snomed("28700002", "Carina"),
}
# Structures on both sides: a side is a modifier; without one, both sides are meant.
_PAIRED = {
    "rib cartilage": _snomed("50016007", "Costal Cartilage"),
    "clavicle": _snomed("51299004", "Clavicle"),
    "scapula": _snomed("79601000", "Scapula"),
    "rib": _RIB,
    "diaphragm": _snomed("5798000", "Diaphragm"),
    "kidney": _snomed("64033007", "Kidney"),
    "breast": _snomed("76752008", "Breast"),
    "lung": _snomed("39607008", "Lung"),
    "lung upper lobe": _snomed("45653009", "Upper lobe of lung"),
    "lung lower lobe": _snomed("90572001", "Lower lobe of lung"),
    # The zones of a radiograph from the apex down; in the labels, the lowest one is the base.
    "apical zone lung": _snomed("86598002", "Apex of Lung"),
    "upper zone lung": _snomed("281392002", "Upper zone of lung"),
    "mid zone lung": _snomed("281393007", "Middle zone of lung"),
    "lung base": _snomed("281394001", "Lower zone of lung"),
}
_PLURALS = {
    "clavicles": "clavicle",
    "scapulas": "scapula",
    "scapulae": "scapula",
    "ribs": "rib",
    "lungs": "lung",
    "kidneys": "kidney",
    "breasts": "breast",
    "hemidiaphragm": "diaphragm",
}
_VERTEBRAE = {
    "c1": "14806007",
    "c2": "39976000",
    "c3": "113205007",
    "c4": "5329002",
    "c5": "36978003",
    "c6": "36054005",
    "c7": "87391001",
    "t1": "64864005",
    "t2": "53733008",
    "t3": "1626008",
    "t4": "73071006",
    "t5": "56401006",
    "t6": "45296009",
    "t7": "62487009",
    "t8": "11068009",
    "t9": "82687006",
    "t10": "7610001",
    "t11": "12989004",
    "t12": "23215003",
    "l1": "66794005",
    "l2": "14293000",
    "l3": "36470004",
    "l4": "11994002",
    "l5": "49668003",
}


def code_for(label: str) -> SegmentCode:
    """Returns the codes of a label.

    A rib has the type "Rib" with modifiers for the side, the anterior or posterior part, and the number. An unknown
    label gets a type of the scheme 99JAXSEG, with a value computed from its text.

    Args:
      label: class name of any model. Upper and lower case are the same, and so are "_" and " ".

    >>> code = code_for("left_lung")
    >>> code.type.meaning, [modifier.meaning for modifier in code.modifiers]
    ('Lung', ['Left'])
    >>> code_for("implant").type.scheme
    '99JAXSEG'
    """
    words = label.casefold().replace("_", " ").split()
    name = " ".join(words)
    if name in _SINGLE:
        return SegmentCode(ANATOMY, _SINGLE[name])
    vertebra = name.removeprefix("vertebrae ")
    if vertebra in _VERTEBRAE:
        return SegmentCode(ANATOMY, _snomed(_VERTEBRAE[vertebra], f"{vertebra.upper()} vertebra"))
    if (part := re.fullmatch(r"(\w+) mediastinum", name)) and part[1] in _PARTS:
        return SegmentCode(ANATOMY, _MEDIASTINUM, (_PARTS[part[1]],))
    sides = [_SIDES[word] for word in words if word in _SIDES]
    if len(sides) <= 1:
        found = _paired(" ".join(word for word in words if word not in _SIDES))
        if found:
            return SegmentCode(ANATOMY, found[0], (*sides, *found[1:]))
    return SegmentCode(ANATOMY, private_code(label))


def _paired(name: str) -> tuple[Code, ...]:
    """Returns the type and the modifiers of a name without its side, or () if the name is unknown."""
    name = _PLURALS.get(name, name)
    if name in _PAIRED:
        return (_PAIRED[name],)
    rib = re.fullmatch(r"(?:(anterior|posterior) )?([1-9]|1[0-2])(st|nd|rd|th) rib", name)
    if not rib:
        return ()
    return (_RIB, *([_PARTS[rib[1]]] if rib[1] else []), private_code(f"{rib[2]}{rib[3]} rib"))
