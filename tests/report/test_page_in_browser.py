"""The page works in headless Chromium, opened from its file without a network."""

import numpy as np
import pytest
from browser import ask, chromium, texts, until
from PIL import Image
from report_kit import NAMES, masks_of, write_dicom, write_pair, write_pairs, write_run

from jaxseg.masks.write import file_names
from jaxseg.report.build import write_report
from jaxseg.text_table import Table

pytestmark = [pytest.mark.slow, pytest.mark.system("chromium", "chromedriver")]

HOSTILE = ("<script>alert(1)<", '"onmouseover="document.title=1', "<img src=x onerror=alert(1)>", "javascript:alert(1)")


@pytest.fixture(scope="module")
def browser():
    """One browser for all tests; it keeps the messages of the console."""
    with chromium() as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd(
            "Network.emulateNetworkConditions",
            {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
        )
        yield driver


def show(browser, page):
    """Opens a page, waits for its first figure, and checks that the console has no messages."""
    browser.get(page.resolve().as_uri())
    until(lambda: browser.execute_script("return document.querySelectorAll('article').length > 0"))
    assert browser.get_log("browser") == []


def paths(browser, number: int) -> list[str]:
    """Returns the names of the classes that are drawn in a figure."""
    browser.execute_script(f"document.getElementById('image-{number}').scrollIntoView()")
    until(lambda: ask(browser, f"!!document.querySelector('#image-{number} svg')"))
    return texts(browser, f"#image-{number} path title")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page of five images: one has no masks, and CTR can be measured in three of the others."""
    folder = tmp_path_factory.mktemp("report")
    names = (*NAMES, "right hemidiaphragm", "lung")
    for i in range(5):
        own = masks_of(i)
        dome = np.zeros_like(own[:1])
        dome[0, 38:42, 6:20] = i != 2
        write_pair(folder / "data", f"image_{i}.png", np.concatenate([own, dome, own[:2].any(0)[None]]), names)
    (folder / "data" / "image_4.json").unlink()
    page = folder / "report.html"
    failures = write_report(sorted((folder / "data").glob("*.png")), folder / "data", page, title="Five images")
    assert len(failures) == 1
    return page


def test_it_opens_from_its_file_without_messages_on_the_console(browser, report):
    show(browser, report)
    assert browser.title == "Five images"
    assert texts(browser, "#facts") == ["5 images · 5 classes · 1 could not be shown"]
    assert "image_4.png: looked for the masks" in texts(browser, "#failures li")[0]
    assert texts(browser, "#clinical") == ["Not for clinical use."]
    assert texts(browser, "tbody th, tbody td:first-child")[:5] == [f"image_{i}.png" for i in range(5)]
    assert paths(browser, 0) == ["lung", "left lung", "right lung", "heart", "right hemidiaphragm"]
    assert texts(browser, "#image-0 figure text") == ["R", "L"]
    assert browser.get_log("browser") == []


def test_tables_of_a_run_are_shown_as_text(browser, tmp_path):
    image, masks = write_pair(tmp_path, "a.png", masks_of(0))
    rows = (("heart", "0.5000"), ("<i>lung</i>", ""))
    write_report([image], [masks], tmp_path / "r.html", tables=[Table("Dice & more", ("class", "Dice"), rows)])
    show(browser, tmp_path / "r.html")
    assert texts(browser, "#tables h2") == ["Dice & more"]
    assert texts(browser, "#tables th") == ["class", "Dice"]
    assert texts(browser, "#tables td") == ["heart", "0.5000", "<i>lung</i>", ""]
    assert browser.get_log("browser") == []


def test_a_class_that_is_switched_off_disappears_from_the_picture(browser, report):
    show(browser, report)
    before, figure = paths(browser, 1), browser.find_element("css selector", "#image-1 figure")
    seen = figure.screenshot_as_png
    browser.find_element("css selector", "#class-list li:nth-child(3) input").click()
    assert set(before) - set(paths(browser, 1)) == {"heart"}
    hidden = figure.screenshot_as_png
    assert hidden != seen
    browser.find_element("css selector", "#class-list li:nth-child(3) input").click()
    browser.execute_script("document.activeElement.blur()")
    assert paths(browser, 1) == before
    assert figure.screenshot_as_png == seen


def test_all_none_default_and_search_switch_the_listed_classes(browser, report):
    show(browser, report)
    browser.find_element("id", "none").click()
    assert paths(browser, 0) == []
    browser.find_element("id", "find-class").send_keys("right")
    browser.find_element("id", "all").click()
    assert sorted(paths(browser, 0)) == ["right hemidiaphragm", "right lung"]
    assert texts(browser, "#shown") == ["2 of 5 shown"]
    browser.find_element("id", "default").click()
    assert len(paths(browser, 0)) == 5


def test_a_group_switches_its_members(browser, tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    names = ("right lung", "left lung", "heart")
    Image.fromarray(np.arange(3000, dtype=np.int64).reshape(60, 50).astype(np.uint8)).save(tmp_path / "a.png")
    for name, mask in zip(file_names(names), masks_of(0), strict=True):
        Image.fromarray(mask).save(folder / f"{name}.png")
    write_report([tmp_path / "a.png"], tmp_path, tmp_path / "r.html")
    show(browser, tmp_path / "r.html")
    assert "lung halves" in texts(browser, "#groups label")
    browser.execute_script("document.querySelector('#groups').open = true")
    browser.find_element("xpath", "//*[@id='groups']//label[.='lung halves']/input").click()
    assert paths(browser, 0) == ["heart"]
    assert texts(browser, "#shown") == ["1 of 3 shown"]


def column(browser, number: int) -> list[str]:
    return texts(browser, f"#measurements tbody td:nth-child({number})")


def test_columns_sort_by_mouse_and_keyboard_with_missing_values_last(browser, report):
    show(browser, report)
    heads = texts(browser, "#measurements thead th")
    assert heads == ["File", "CTR", "SCD (px)", "right lung area (px)", "left lung area (px)", "heart area (px)"]
    button = "#measurements thead th:nth-child(2) button"
    browser.find_element("css selector", button).click()
    first = [float(text) for text in column(browser, 2) if text != "–"]
    assert column(browser, 2)[3:] == ["–", "–"]
    assert first == sorted(first)
    assert ask(browser, "document.querySelectorAll('th')[1].ariaSort") == "ascending"
    assert texts(browser, "#cards h3") == column(browser, 1)
    browser.switch_to.active_element.send_keys("\ue007")  # Enter: the button has kept the focus
    assert ask(browser, "document.querySelectorAll('th')[1].ariaSort") == "descending"
    assert [float(text) for text in column(browser, 2) if text != "–"] == first[::-1]
    assert column(browser, 2)[3:] == ["–", "–"]
    browser.find_element("css selector", "#measurements thead th:nth-child(1) button").click()
    assert column(browser, 1) == [f"image_{i}.png" for i in range(5)]


def test_missing_values_give_their_reasons(browser, report):
    show(browser, report)
    missing = ask(browser, "Array.from(document.querySelectorAll('#measurements td.missing'), (e) => e.title)")
    assert "the mask of 'right hemidiaphragm' is empty" in missing
    assert any("looked for the masks of image_4.png" in reason for reason in missing)
    assert "No CTR: the mask of 'right hemidiaphragm' is empty." in texts(browser, "#image-2 p")


def test_the_hash_of_the_weights_is_short_and_whole_on_hover_and_focus(browser, report, tmp_path):
    digest = "0123456789abcdef" * 4
    page = tmp_path / "r.html"
    page.write_text(report.read_text().replace('"settings":{}', f'"settings":{{"weights sha256":"{digest}"}}', 1))
    show(browser, page)
    value = browser.find_element("css selector", "#settings dd")
    assert value.get_attribute("title") == digest
    assert texts(browser, "#settings .short") == ["0123456789ab…"]
    assert texts(browser, "#settings .whole") == [digest]
    narrow = value.size["width"]
    browser.execute_script("arguments[0].focus()", value)
    assert value.size["width"] > 2 * narrow


def test_the_filter_acts_on_table_images_and_histograms(browser, report):
    show(browser, report)
    browser.find_element("id", "filter").send_keys("IMAGE_1")
    visible = "filter((e) => !e.hidden).map((e) => e.querySelector('a, h3').textContent)"
    assert ask(browser, f"Array.from(document.querySelectorAll('#measurements tbody tr')).{visible}") == ["image_1.png"]
    assert ask(browser, f"Array.from(document.querySelectorAll('article')).{visible}") == ["image_1.png"]
    assert "n = 1" in texts(browser, "#histograms figcaption")[0]
    assert texts(browser, "#matches") == ["1 of 5 images"]


def test_histograms_count_every_value_once_and_the_missing_ones(browser, report):
    show(browser, report)
    captions = texts(browser, "#histograms figcaption")
    counts = ask(
        browser,
        "Array.from(document.querySelectorAll('#histograms figure'), (f) => "
        "Array.from(f.querySelectorAll('rect'), (r) => Number(r.dataset.count)).reduce((a, b) => a + b, 0))",
    )
    assert counts == [3, 4, 4, 4]
    assert captions[0].startswith("CTRn = 3 · median 0.")
    assert captions[0].endswith("not measured in 1")
    assert texts(browser, "#without-values") == ["Without a value: SCD (px)."]
    assert {"images", "ratio"} <= set(texts(browser, "#histograms figure:first-child text"))


@pytest.mark.parametrize("values", ["[0.1,0.2,0.30000000000000004,0.4]", "[5,5,5]", "[0,0]", "[-3,1e6,12,13]", "[7]"])
def test_every_value_is_in_its_bin(browser, report, values):
    show(browser, report)
    counts, edges, numbers = ask(
        browser,
        f"((v) => {{ const b = bins(v); return [b.counts, [...b.counts, 0].map((_, i) => b.edge(i)), v]; }})({values})",
    )
    assert sum(counts) == len(numbers)
    assert edges == sorted(edges)
    assert edges[0] <= min(numbers) * (1 + 1e-9)
    assert max(numbers) <= edges[-1]
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        slack = 1e-9 * abs(high)
        assert sum(low + slack < n < high - slack for n in numbers) <= count
    assert len(counts) <= 60


@pytest.mark.parametrize("values", ["[71296, 442112, 2019878, 96960]", "[0.500001, 0.500002]", "[12345678, 12345679]"])
def test_the_labels_below_a_histogram_differ_and_do_not_overlap(browser, report, values):
    show(browser, report)
    browser.execute_script(f"document.querySelector('#histograms').replaceChildren(histogram({values}, ''))")
    box = "((b) => [t.textContent, b.x, b.x + b.width])(t.getBBox())"
    found = ask(browser, f"Array.from(document.querySelectorAll('#histograms text[y=\"129\"]'), (t) => {box})")
    assert len({text for text, _, _ in found}) == len(found) > 1
    assert all(end < start for (_, _, end), (_, start, _) in zip(found, found[1:], strict=False))


def test_columns_can_be_added_and_all_classes_listed(browser, report):
    show(browser, report)
    browser.find_element("css selector", "#columns summary").click()
    browser.find_element("css selector", "#columns input[type=search]").send_keys("hemidia")
    browser.find_element("css selector", "#columns li:not([hidden]) input").click()
    assert "right hemidiaphragm area (px)" in texts(browser, "#measurements thead th")
    browser.switch_to.active_element.send_keys("\ue00c")  # Escape
    assert not ask(browser, "document.querySelector('#columns').open")
    browser.execute_script("document.querySelector('#image-0 details').open = true")
    until(lambda: len(texts(browser, "#image-0 tbody tr")) == 5)
    assert texts(browser, "#image-0 tbody tr:nth-child(3) td") == ["heart", f"{masks_of(0)[2].sum():,}"]


def test_links_open_the_files(browser, report):
    show(browser, report)
    links = ask(browser, "Array.from(document.querySelectorAll('#image-1 .links a'), (a) => a.href)")
    data = report.parent.resolve() / "data"
    assert links == [(data / "image_1.png").as_uri(), (data / "image_1.json").as_uri()]


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_hostile_names_and_tags_are_shown_as_text(browser, tmp_path):
    images, masks = [], []
    for i, name in enumerate(HOSTILE):
        image, path = write_pair(tmp_path / "data", f"{name}.png", masks_of(i), (name, "</script>", "b"))
        images.append(image)
        masks.append(path)
    images.append(
        write_dicom(tmp_path / "tag.dcm", np.zeros((60, 50), np.uint8), PhotometricInterpretation="<script>3")
    )
    write_report(images, [*masks, path], tmp_path / "r.html", title="</title><script>alert(2)</script>")
    show(browser, tmp_path / "r.html")
    assert browser.title == "</title><script>alert(2)</script>"
    assert texts(browser, "h1") == ["</title><script>alert(2)</script>"]
    assert texts(browser, "article h3") == [*(f"{name}.png" for name in HOSTILE), "tag.dcm"]
    assert "<script>3 is colour" in texts(browser, "#failures li")[0]
    assert set(HOSTILE) <= set(texts(browser, "#class-list label"))
    assert ask(browser, "document.querySelectorAll('img, [onmouseover], [onerror]').length") == 0
    assert ask(browser, "document.querySelectorAll('script:not([type])').length") == 1
    addresses = ask(browser, "Array.from(document.links, (a) => a.protocol)")
    assert set(addresses) == {"file:"}
    links = ask(browser, "Array.from(document.querySelectorAll('.links a:first-child'), (a) => a.href)")
    assert links == [image.resolve().as_uri() for image in images]
    assert browser.get_log("browser") == []


def test_the_policy_stops_scripts_that_were_added_to_the_page(browser, tmp_path):
    images, masks = write_pairs(tmp_path, 1)
    write_report(images, masks, tmp_path / "r.html")
    page = tmp_path / "r.html"
    page.write_text(page.read_text().replace("<footer", "<script>document.title = 'mine'</script><footer", 1))
    browser.get(page.resolve().as_uri())
    assert browser.title == "Segmentation report"
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_doubtful_masks_are_listed_first_and_the_confidence_sorts(browser, report, tmp_path):
    values = [[0.9, 0.8, 0.4], [0.9, 0.8, 0.35], [0.5, 0.82, 0.42], [0.92, None, 0.4], [0.88, 0.84, 0.41]]
    write_report(write_run(tmp_path, values), tmp_path / "out", tmp_path / "r.html", features="area")
    show(browser, tmp_path / "r.html")
    assert texts(browser, "#first li") == [
        "image_3.png: left lung 0.00 (median 0.80)",
        "image_2.png: right lung 0.50 (median 0.90)",
        "image_1.png: heart 0.35 (median 0.40)",
        "image_4.png: right lung 0.88 (median 0.90)",
    ]
    assert ask(browser, "document.querySelector('#first a').getAttribute('href')") == "#image-3"
    place = texts(browser, "#measurements thead button").index("confidence")
    browser.execute_script(f"document.querySelectorAll('#measurements thead button')[{place}].click()")
    assert column(browser, 1) == [f"image_{i}.png" for i in (2, 3, 1, 0, 4)]
    show(browser, report)
    assert ask(browser, "document.getElementById('first').hidden")


def test_one_image_lists_its_masks_by_their_confidence(browser, tmp_path):
    write_report(write_run(tmp_path, [[0.9, 0.3, 0.4]]), tmp_path / "out", tmp_path / "r.html")
    show(browser, tmp_path / "r.html")
    assert [text.split(" (")[0] for text in texts(browser, "#first li")] == [
        "image_0.png: left lung 0.30",
        "image_0.png: heart 0.40",
        "image_0.png: right lung 0.90",
    ]


@pytest.mark.full
def test_300_images_have_small_pictures_a_table_and_histograms(browser, tmp_path):
    images, masks = write_pairs(tmp_path / "data", 300, size=(48, 50))
    write_report(images, masks, tmp_path / "r.html", sides=False)
    assert (tmp_path / "r.html").stat().st_size < 2_000_000
    show(browser, tmp_path / "r.html")
    assert len(column(browser, 1)) == 300
    assert paths(browser, 299) == []
    picture = ask(browser, "document.querySelector('#image-299 image').href.baseVal")
    assert picture.startswith("data:image/jpeg;base64,")
    assert texts(browser, "article figure text") == []
    assert ask(browser, "document.querySelectorAll('#class-list input').length") == 0
    assert texts(browser, "#class-list li") == list(NAMES)
    assert ask(browser, "document.querySelectorAll('figure svg image').length") < 100  # only those near the screen
    assert "n = 300" in texts(browser, "#histograms figcaption")[0]
    assert browser.get_log("browser") == []
