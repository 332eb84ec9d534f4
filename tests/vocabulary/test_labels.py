"""Label sets and groups, and the selection of classes by name."""

import json

import pytest

from jaxseg import registry
from jaxseg.vocabulary import labels


def test_labels_and_groups_are_those_of_the_original(kit):
    facts = json.loads((kit.folder / "facts" / "cxas_labels.json").read_text())
    assert list(labels.CXAS) == facts["labels"]
    assert {name: list(members) for name, members in labels.CXAS_GROUPS.items()} == facts["groups"]


def test_every_group_can_be_selected():
    for name, members in labels.CXAS_GROUPS.items():
        assert labels.select(labels.CXAS, name.upper()) == tuple(sorted(set(members)))


def test_a_name_of_a_group_and_a_label_means_the_group_unless_it_starts_with_label():
    assert labels.select(labels.CXAS, "trachea") == (154, 155)
    assert labels.select(labels.CXAS, "label:trachea") == (154,)


def test_selected_indices_are_sorted_and_unique():
    chosen = labels.select(labels.CXAS, "heart, lung halves, Heart, label:aorta")
    assert [labels.CXAS[i] for i in chosen] == ["heart", "aorta", "right lung", "left lung"]
    assert labels.select(labels.CXAS, ["right lung"]) == (135,)
    assert labels.select(labels.CXAS, None) == tuple(range(159))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [("hart", "did you mean 'heart'"), ("lung, xyzzy", "unknown class 'xyzzy'"), (" , ", "no class was named")],
)
def test_unknown_names_are_refused_with_suggestions(wanted, words):
    with pytest.raises(ValueError, match=words):
        labels.select(labels.CXAS, wanted)


@pytest.mark.parametrize(
    "content", ['["a", "b"]', '{"0": "a", "1": "b"}', '{"label_dict": {"1": "b", "0": "a"}, "train": []}']
)
def test_names_are_read_from_json(tmp_path, content):
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "x.json").write_text(content, encoding=encoding)
        assert labels.read_names(tmp_path / "x.json") == ("a", "b")
    (tmp_path / "x.json").write_text(content, encoding="utf-16")
    with pytest.raises(ValueError, match=r"x\.json is not a JSON file in UTF-8"):
        labels.read_names(tmp_path / "x.json")


@pytest.mark.parametrize("content", ["", "[]", '["a", 1]', '{"0": "a", "2": "b"}', "3", "[" * 100_000])
def test_files_without_names_are_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=r"x\.json"):
        labels.read_names(tmp_path / "x.json")


def test_paxray_labels_are_read(shared):
    assert labels.read_names(shared / "data" / "paxray" / "paxray.json")[:2] == ("right lung", "left lung")


def test_models_are_found_by_name_and_alias():
    assert registry.find("unet_resnet50_default") is registry.find("cxas")
    with pytest.raises(ValueError, match="did you mean 'cxas'"):
        registry.find("cxsa")


def test_since_version_0_0_20_two_groups_contain_c7():
    c7 = labels.CXAS.index("vertebrae C7")
    for name, members in labels.CXAS_GROUPS.items():
        newer = labels.select(labels.CXAS, name, groups="cxas-0.0.20")
        extra = {c7} if name in ("all vertebrae", "cervical spine") else set()
        assert set(newer) - set(members) == extra
        assert set(members) <= set(newer)
    with pytest.raises(ValueError, match="unknown groups 'cxas-1'; known: original, cxas-0.0.20"):
        labels.select(labels.CXAS, "heart", groups="cxas-1")


def test_in_a_mirrored_image_left_and_right_are_exchanged():
    names = labels.CXAS
    partners = labels.mirrored(names)
    for i, partner in enumerate(partners):
        if partner is not None and partner != i:
            assert partners[partner] == i
            assert {"left", "right"} <= {*names[i].split(), *names[partner].split()}
    assert [name for name, partner in zip(names, partners, strict=True) if partner is None] == [
        "lung middle lobe right"
    ]
    assert labels.mirrored(("Lung_Left", "lung_right", "bright", "heart", "Heart")) == (1, 0, 2, 3, 4)
