"""The figures in the benchmarks' tables: counts of operations, choice of samples, missing rows, and their page."""

import itertools
import re

import jax
import numpy as np
import pytest

from benchmarks import alternate, annotators, confidence, convolutions, jax_side, method_tables, page
from benchmarks.alternate import Sample
from benchmarks.counts import operations, traffic
from benchmarks.throughput import keep_other_processor
from benchmarks.throughput_report import labels, plot, shares, table
from jaxseg.training.config.config import read_config, write_config

# a figure with a unit of something measured; sizes of inputs (px, seeds, epochs) and settings are no results
MEASURED = re.compile(
    r"\d+(\.\d+)?\s*(s|ms|seconds|minutes|GB|times as (fast|long|slow))\b|Dice (of )?\d|\b0\.\d\d\d\b"
)
SETTINGS = (  # not results
    "at most ten minutes",
    "1.2 times as fast",  # the target on a GPU
    "at most 7 GB",  # targets of memory
    "at most 1.6 GB",
)
XEON, EPYC = "Intel(R) Xeon(R) Processor", "AMD EPYC"


@pytest.mark.full
@pytest.mark.parametrize("what", ["inference", "training step"])
@pytest.mark.parametrize("model", ["cmvae", "prob_unet"])
def test_counts_of_operations_and_bytes_agree_with_xla_within_5_percent(model, what, monkeypatch):
    monkeypatch.setattr(jax_side, "_compiled", lambda *_: (lambda state, *_: (state, {}), 0.0))  # only counted
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it
        _, facts = jax_side.make(model, what, 2, "float32")
    assert facts["flops"] == pytest.approx(facts["xla_flops"], rel=0.05)
    assert facts["bytes"] == pytest.approx(facts["xla_bytes"], rel=0.05)


def test_a_convolution_counts_two_operations_per_product():
    x, kernel = jax.numpy.ones((2, 5, 5, 3)), jax.numpy.ones((3, 3, 3, 4))

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert operations(convolve, x, kernel) == 2 * 2 * 3 * 3 * 4 * 9 * 3


def test_traffic_counts_bytes_read_and_written_before_fusion():
    x = jax.numpy.ones((10, 20))
    assert traffic(lambda x: -x, x) == 2 * 800
    assert traffic(lambda x: x + x, x) == 3 * 800
    assert (
        traffic(lambda x: x * 2 + x * 2, x) == (4 + 800) + 3 * 800 + 3 * 800
    )  # 2 is broadcast, the product computed once
    assert traffic(lambda x: x[:5], x) == 2 * 400


def test_noisy_samples_are_taken_again_and_left_out_of_the_summary(monkeypatch):
    monkeypatch.setattr(alternate.time, "sleep", lambda _: None)
    noise = iter([0.5, 0.5, 0.0] + [0.5] * 20)
    taken = alternate.sample_alternately({"ours": lambda: Sample(1.0, 1.0, next(noise))}, 2)
    assert [one.others for one in taken["ours"]] == [0.0, 0.5]
    found = alternate.summary(
        {"ours": [Sample(1.0, 1.0, 0.0), Sample(9.0, 1.0, 0.5)], "theirs": [Sample(2.0, 1.0, 0.0)] * 2}, "ours"
    )
    assert found["ours"]["median_s"] == 1.0
    assert found["theirs"]["over_ours"] == 2.0
    assert found["ours"]["noisy"] == 1


def test_table_names_the_machine_and_the_missing_rows(tmp_path):
    side = {"median_s": 0.1, "quartiles_s": [0.1, 0.2], "noisy": 0, "peak_gb": 1.0, "over_jaxseg": 1.5, "device": "cpu"}
    row = {
        "sides": {"jaxseg": side | {"flops": 1e9, "bytes": 2e8, "xla_flops": 1.25e9}, "published": side},
        "dtype": "float32",
        "date": "today",
    }
    row |= {"processor": "a processor", "environment": {"cpus": 2, "versions": {"jax": "1.2", "torch": "3.4"}}}
    result = {
        "platform": "cpu",
        "rows": {"unet, inference, 1, float32": row},
        "peak": {"a processor": {"float32": {"flops_per_s": 2e10, "bytes_per_s": 1e10}}},
    }
    text = table(result)
    assert "| unet, inference, 1, float32 | 100.0 ms (100.0 to 200.0) | 100.0 ms" in text
    assert "| 50% | 20% |" in text
    assert "a processor, 2 cores and threads, jax 1.2, torch 3.4" in text
    assert "Counts by hand relative to XLA's: operations 0.800 to 0.800." in text
    missing = text.split("Not measured: ")[1]
    assert "unet, training step, 3, float32; " in missing
    assert "unet, inference, 1, bfloat16; " in missing
    assert "unet, inference, 1, float32" not in missing
    plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_shares_are_those_of_the_peak_of_the_rows_processor():
    row = {"sides": {"jaxseg": {"median_s": 0.1, "flops": 1e9, "bytes": 2e8}}, "dtype": "float32", "processor": XEON}
    peak = {XEON: {"float32": {"flops_per_s": 2e10, "bytes_per_s": 1e10}}}
    assert shares(row, {"peak": peak}) == ["50%", "20%"]
    assert shares(row | {"processor": EPYC}, {"peak": peak}) == ["", ""]
    assert shares(row | {"dtype": "bfloat16"}, {"peak": peak}) == ["", ""]


def test_the_plot_names_processors_if_rows_come_from_several():
    rows = {
        "unet, training step, 3, float32": {"processor": XEON},
        "segae, inference, 16, float32": {"processor": XEON},
    }
    assert labels(rows) == ["unet, training, 3, float32", "segae, inference, 16, float32"]
    rows["segae, inference, 16, float32"] = {"processor": EPYC}
    assert labels(rows) == ["unet, training, 3, float32, Intel Xeon", "segae, inference, 16, float32, AMD EPYC"]


def test_every_processor_has_its_latest_row_when_a_is_followed_by_b_and_a_again():
    result, name = {"rows": {}}, "unet, inference, 1, float32"
    for number, processor in enumerate((XEON, EPYC, XEON)):
        keep_other_processor(result, name, processor)
        result["rows"][name] = {"processor": processor, "number": number}
    assert result["rows"] == {name: {"processor": XEON, "number": 2}}
    assert result["elsewhere"] == {f"{name}, {EPYC}": {"processor": EPYC, "number": 1}}


def test_a_row_measured_again_on_its_processor_replaces_the_older_one_only():
    result, name = {"rows": {"a, inference, 1, float32": {"processor": XEON}}}, "a, inference, 1, float32"
    keep_other_processor(result, name, XEON)
    assert not result.get("elsewhere")


def test_the_page_shows_the_rows_of_the_published_batch_and_of_exactly_the_dtype(monkeypatch):
    def row(batch, dtype, processor):
        return {"batch": batch, "dtype": dtype, "processor": processor}

    found = {
        "rows": {
            "unet, inference, 1, float32": row(1, "float32", XEON),
            "unet, inference, 2, float32": row(2, "float32", XEON),
            "unet, inference, 1, float32_of_another_kind": row(1, "float32_of_another_kind", XEON),
        },
        "elsewhere": {
            f"unet, inference, 1, float32, {EPYC}": row(1, "float32", EPYC),
            f"unet, training step, 3, float32, {EPYC}": row(3, "float32", EPYC),
        },
    }
    monkeypatch.setattr(page, "results", lambda name: found)
    wanted = [row(1, "float32", XEON), row(1, "float32", EPYC)]
    assert page._rows("unet", "inference", "float32") == wanted


@pytest.mark.slow
@pytest.mark.parametrize("kind", convolutions.KINDS)
def test_all_forms_of_a_convolution_agree(kind):
    assert convolutions.KINDS[kind].difference((1, 8, 32, 16, 3)) < 1e-5


@pytest.mark.slow
def test_every_kind_of_convolution_runs():
    for kind in convolutions.KINDS.values():
        for sides in kind.passes.values():
            for run in sides((1, 8, 16, 16, 3)).values():
                run()


@pytest.mark.parametrize("name", confidence.DEGRADATIONS)
def test_phantoms_are_degraded_in_steps_and_keep_their_masks(name):
    images = [confidence.degraded(name, step, 0) for step in (0, 2, confidence.STEPS)]
    whole, truth = confidence.phantom.draw(0, confidence.SIZE)
    np.testing.assert_array_equal(images[0][0], whole)
    for image, masks in images[1:]:
        assert masks.shape[1:] == image.shape
        assert image.shape != whole.shape or (image != whole).mean() > 0.5
        assert image.shape != whole.shape or (masks == truth).all()


def test_ranks_are_spearmans_with_empty_masks_last_and_the_entropy_turned_round():
    rows = [
        {"dice": 0.9, "mean_probability": 0.8, "border_entropy": 0.2, "shape_agreement": None},
        {"dice": 0.7, "mean_probability": 0.9, "border_entropy": 0.3, "shape_agreement": None},
        {"dice": 0.0, "mean_probability": None, "border_entropy": None, "shape_agreement": None},
    ]
    assert confidence.ranks(rows, "mean_probability") == 0.5
    assert confidence.ranks(rows, "border_entropy") == 1.0
    assert confidence.ranks(rows, "shape_agreement") is None


def test_patients_are_left_out_once_and_never_trained_on(tmp_path):
    data, sizes = tmp_path / "lidc", {"train": range(9), "validate": range(9, 11)}
    for split, patients in sizes.items():
        for patient in patients:
            for name in ("scans", "masks/GT", "masks/annots"):
                path = data / split / name / f"pid_{patient:04}_nod_0_slice_0.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{name} of {patient}")
    left_out = []
    for part in range(annotators.PARTS):
        (tmp_path / "parts" / f"{part}.part" / "train").mkdir(parents=True)  # of a copy that was interrupted
        root = annotators.without_patients(data, tmp_path / "parts", part)
        names = {split: [path.name for path in (root / split / "scans").iterdir()] for split in sizes}
        assert sorted(names["train"] + names["validate"]) == [f"pid_{i:04}_nod_0_slice_0.tif" for i in range(11)]
        for split, name in itertools.product(sizes, ("scans", "masks/GT", "masks/annots")):
            texts = [path.read_text() for path in (root / split / name).iterdir()]
            assert sorted(texts) == sorted(f"{name} of {int(one.split('_')[1])}" for one in names[split])
        left_out += names["validate"]
        assert not (tmp_path / "parts" / f"{part}.part").exists()
    assert sorted(left_out) == [f"pid_{i:04}_nod_0_slice_0.tif" for i in range(11)]


def measured(**values: float) -> dict[str, dict[str, float]]:
    return {name: {"mean": value} for name, value in values.items()}


def test_means_over_seeds_take_the_last_step_and_only_measures_that_all_rows_have():
    runs = {
        "cmvae_best_0": {"measures": measured(dice=0.9, iou_matched=0.5), "last": measured(dice=0.8, iou_matched=0.4)},
        "cmvae_best_1": {"measures": measured(dice=0.6), "epochs": 40, "training_seconds": 60},
        "cmvae_patients_0": {"measures": measured(dice=0.1)},
    }
    runs["cmvae_best_0"] |= {"epochs": 40, "training_seconds": 50}
    found = annotators.over_seeds("cmvae_best", runs)
    assert found["dice"] == {"mean": pytest.approx(0.7), "standard_error": pytest.approx(0.1)}
    assert found["best_checkpoint"]["dice"]["mean"] == pytest.approx(0.75)
    assert (found["lowest_dice"], found["seeds"], found["epochs"], found["training_seconds"]) == (0.6, 2, 40, 50)
    assert "iou_matched" not in found
    same = {part: {"measures": row["measures"]} for part, row in runs.items()}  # the last step is the best
    assert annotators.over_seeds("cmvae_best", same)["best_checkpoint"]["dice"]["mean"] == pytest.approx(0.75)
    assert annotators.over_seeds("cmvae_patients", runs) is None  # one run has no standard error


def test_the_table_of_the_fall_subtracts_patients_left_out(monkeypatch):
    rows = {"cmvae_best": {"dice": {"mean": 0.85, "standard_error": 0.03}}}
    rows["cmvae_patients"] = {"dice": {"mean": 0.8, "standard_error": 0.04}, "of_validate": {"mean": 0.83}}
    monkeypatch.setattr(method_tables, "results", lambda _: rows)
    lines = method_tables.annotators_fall().splitlines()
    assert "| `cmvae_lidc_best` | 0.850 +- 0.030 | 0.800 +- 0.040 | 0.050 +- 0.050 | 0.830 |" in lines
    assert "| `prob_unet_lidc_best` | n/a | n/a | n/a | n/a |" in lines


def test_a_run_with_other_settings_is_refused(tmp_path):
    config, overrides = annotators.plan("prob_unet_patients_1")
    folder = tmp_path / "prob_unet_patients_1"
    folder.mkdir()
    write_config(read_config(config, overrides, data=tmp_path), folder / "config.yaml")
    assert annotators.checked_config(folder).trainer.epochs == 30
    write_config(read_config(config, [*overrides, "loss.beta=2", "seed=1"]), folder / "config.yaml")
    with pytest.raises(SystemExit, match=r"loss\.beta, seed in its config\.yaml differ from prob_unet_lidc_best"):
        annotators.checked_config(folder)


def test_the_tables_of_the_page_are_those_of_the_results():
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.filled(text) == text, "run python benchmarks/page.py"


def test_the_page_has_every_table_once():
    text = page.PAGE.read_text(encoding="utf-8")
    assert sorted(re.findall(r"<!-- table (\w+) -->", text)) == sorted(page.TABLES)


def test_measured_figures_are_in_tables():
    text = page.without_tables(page.PAGE.read_text(encoding="utf-8"))
    for setting in SETTINGS:
        text = text.replace(setting, "")
    assert [found[0] for found in MEASURED.finditer(text)] == []


@pytest.mark.parametrize(
    ("ratio", "least", "wanted", "verdict"),
    [
        (1.2, 1.0, 1.2, "reached"),
        (1.1, 1.0, 1.2, "between"),
        (0.9, 1.0, 1.2, "**missed**"),
        (0.5, None, 0.9, "below"),
        (1.05, 1.1, 1.0, "**missed**"),
    ],
)
def test_a_ratio_is_judged_by_both_targets(ratio, least, wanted, verdict):
    assert page.verdict(ratio, least, wanted) == verdict


@pytest.mark.parametrize(
    ("model", "what", "ours", "theirs", "verdict"),
    [
        ("post_dae", "inference", 1.1, 1.0, "reached"),
        ("post_dae", "inference", 1.11, 1.0, "**missed**"),
        ("post_dae", "training step", 1.6, 1.0, "reached"),
        ("post_dae", "training step", 1.61, 9.0, "**missed**"),
        ("unet", "training step", 7.01, 9.0, "**missed**"),
        ("segae", "training step", 99.0, 1.0, ""),
    ],
)
def test_memory_is_judged_beside_tuned_pytorch_or_by_the_limit_of_a_step(model, what, ours, theirs, verdict):
    row = {"sides": {"jaxseg": {"peak_gb": ours}, "tuned": {"peak_gb": theirs}}}
    assert page._memory_of(model, what, "float32", row) == verdict


def test_the_table_of_layers_has_each_pass_in_its_column(monkeypatch):
    passes = {"gradient of the kernel": 4.0, "forward": 1.0, "gradient of the images": 2.0}
    row = {"whole_ms": {"jaxseg": 10.0, "tuned": 9.0}, "processor": XEON}
    row["passes_ms"] = {name: {"jaxseg": ms, "tuned": ms} for name, ms in passes.items()}
    monkeypatch.setattr(page, "results", lambda name: {"unet, training step, float32": row})
    lines = page.layers().split("\n")
    assert lines[0].count("gradients of maps | gradients of kernels") == 1
    assert "| jaxseg | 10.0 | 1.0 | 2.0 | 4.0 | 3.0 | Intel Xeon |" in lines[2]


def test_what_misses_its_target_is_named_once_for_every_verdict():
    tables = [page.TABLES[name]() for name in ("throughput", "jobs", "startup", "measuring")]
    assert sum(map(len, page.missed().values())) == sum(table.count("**missed**") for table in tables)


def test_every_row_that_misses_its_floor_has_a_profile():
    profiles = page.results("layer_times")
    missing = [f"{model}, {what}, {dtype}" for model, what, dtype, _ in page.missed_rows()]
    assert [name for name in missing if name not in profiles] == []
