"""Everything that can be wrong is found before a pipeline runs, and names its setting; nothing is written."""

import json

import numpy as np
import pytest
from PIL import Image
from pipeline_runs import sections, write_models, write_phantoms

from jaxseg.pipeline.config import make_config
from jaxseg.pipeline.plan import make_plan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(plain, tmp_path_factory):
    folder = write_phantoms(tmp_path_factory.mktemp("plan"), 2)
    write_models(folder)
    return folder


def planned(folder, output, **changed):
    return make_plan(make_config(sections(folder, **changed), "p.yaml"), folder / "images", output)


def test_a_plan_knows_the_models_images_and_folders(work, tmp_path):
    plan = planned(work, tmp_path / "out")
    assert [path.name for path in plan.names] == ["p0.png", "p1.png"]
    assert plan.restoring.names == ("right lung", "left lung")
    assert plan.segmenter.confidence
    assert plan.segmenter.shape_check is plan.restoring
    assert (plan.masks, plan.folder("segment")) == (tmp_path / "out" / "restored", tmp_path / "out" / "masks")
    assert planned(work, tmp_path / "out", restore=None, confidence=None).masks == tmp_path / "out" / "masks"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"segment": {"weights": "nowhere"}}, r"^segment\.weights: nowhere: no such file or folder"),
        ({"segment": {"classes": "hart"}}, r"^segment\.classes: unknown class 'hart'; did you mean 'heart'"),
        ({"segment": {"preprocessing": "x"}}, r"^segment: unknown preprocessing 'x'"),
        ({"segment": {"check_orientation": "fix"}}, r"^segment: no reference of upright images"),
        ({"restore": {"weights": "nowhere"}}, r"^restore\.weights: 'nowhere' is neither a model name"),
        ({"restore": {"classes": None}}, r"^restore\.classes: name those classes that the model of masks restores"),
        ({"restore": {"classes": "spine"}}, r"^restore\.classes: "),
        ({"measure": {"features": "areas"}}, r"^measure\.features: unknown feature 'areas'"),
        ({"measure": {"features": "CTR"}}, r"^measure\.features: .*cannot be measured with this model"),
        ({"report": {"features": "areas"}}, r"^report\.features: "),
        ({"report": {"classes": "spine"}}, r"^report\.classes: "),
        ({"compare": {"classes": "spine"}}, r"^compare\.classes: "),
        ({"compare": {"truth": "nowhere"}}, r"^compare\.truth: nowhere: no such file or folder"),
    ],
)
def test_a_wrong_setting_is_named(work, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        planned(work, tmp_path / "out", **changed)
    assert not (tmp_path / "out").exists()


def test_the_weights_of_another_kind_of_model_are_refused(work, tmp_path):
    with pytest.raises(ValueError, match=r"^segment: model 'post_dae' takes masks, not images"):
        planned(work, tmp_path / "out", segment={"weights": str(work / "shapes"), "classes": None}, restore=None,
                confidence=None, compare=None, measure=None, report=None)  # fmt: skip
    with pytest.raises(ValueError, match=r"^restore\.weights: a model of masks is needed"):
        planned(work, tmp_path / "out", restore={"weights": str(work / "network")})


def test_true_masks_must_be_those_of_the_images_and_of_the_classes(work, tmp_path):
    for name, file in (("others", "x/heart.png"), ("classes", "p0/liver.png")):
        path = tmp_path / name / file
        path.parent.mkdir(parents=True)
        Image.fromarray(np.ones((96, 96), bool)).save(path)
    with pytest.raises(ValueError, match=r"^compare\.truth: .*has masks of x, but the images are p0, p1"):
        planned(work, tmp_path / "out", compare={"truth": str(tmp_path / "others")})
    with pytest.raises(ValueError, match=r"^compare\.truth: .*has masks of liver, but the classes are right lung"):
        planned(work, tmp_path / "out", compare={"truth": str(tmp_path / "classes")})


def test_changed_settings_are_found_by_the_summaries_of_the_stages(work, tmp_path):
    out = tmp_path / "out"
    plan = planned(work, out)
    assert plan.changed() == {}
    (out / "masks").mkdir(parents=True)
    settings = plan.segmenter.settings | {"classes": list(plan.segmenter.names), "threshold": 0.25}
    document = {"jaxseg": "0.1.0", "settings": settings, "files": {}}
    (out / "masks" / "summary.json").write_text(json.dumps(document))
    assert plan.changed() == {"segment": ["threshold"]}
    (out / "masks" / "summary.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a jaxseg summary; name another output folder"):
        plan.changed()
