"""Each explorer, moved by keys and by pointer: what changes on the screen, and in Python."""
import os
import time

import pytest
from conftest import picture

from vqlib.pictures import settings_of

PATIENCE = 1000 * int(os.environ.get("VQLIB_BROWSER_SECONDS", "60"))   # ms, on a busy machine

pytestmark = pytest.mark.browser
expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect
expect.set_options(timeout=PATIENCE)


def idle(view):
    """Until Python has answered."""
    expect(view).not_to_have_attribute("data-busy", "")
    return view


def sources(view, selector="img"):
    return view.locator(selector).evaluate_all("nodes => nodes.map((node) => node.src)")


def pixels(canvas):
    return canvas.evaluate("node => node.toDataURL()")


def test_data_shows_the_class_that_is_chosen_and_what_is_known_of_an_image(opened, asked, dataset):
    view = opened("data")
    view.get_by_label("class").select_option(label=f"mel ({dataset.label_names.count('mel')})")
    idle(view)
    captions = view.locator(".vq-grid:not(.vq-small) .vq-caption").all_text_contents()
    assert set(captions) == {"mel"}
    view.get_by_label("augmentation").select_option("flips and quarter turns")
    before = sources(idle(view), ".vq-grid:not(.vq-small) img")
    view.get_by_role("button", name="Draw again").click()
    assert sources(idle(view), ".vq-grid:not(.vq-small) img") != before
    view.locator(".vq-grid button").first.focus()
    view.page.keyboard.press("ArrowRight")
    view.page.keyboard.press("Enter")
    expect(view.locator(".vq-small button")).to_have_count(6)
    expect(view.locator("dd").first).to_have_text(dataset.names[asked[-1]["row"]])
    assert [a["do"] for a in asked] == ["open", "show", "show", "show", "inspect"]


def test_reconstruction_frames_equal_codes_and_swaps_the_chosen_one(opened, asked):
    view = opened("reconstruction")
    canvas = view.locator("canvas.vq-cells").nth(1)
    expect(view.locator("canvas.vq-cells")).to_have_count(5)
    canvas.focus()
    view.page.keyboard.press("ArrowRight")
    expect(view.locator(".vq-info")).to_contain_text("row 1, column 2: code")
    before = pixels(canvas)
    view.page.keyboard.press("ArrowDown")
    expect(view.locator(".vq-info")).to_contain_text("row 2, column 2: code")
    assert pixels(canvas) != before
    canvas.click(position={"x": 5, "y": 5})
    expect(view.locator(".vq-info")).to_contain_text("row 1, column 1: code")
    old = int(view.locator(".vq-info").text_content().split("code ")[1].split(",")[0])
    view.locator(".vq-palette button").last.click()
    idle(view)
    assert asked[-1]["do"] == "swap"
    assert asked[-1]["codes"][0] != old
    expect(view.locator(".vq-line")).to_contain_text("1 codes swapped")
    view.get_by_role("button", name="Undo").click()
    idle(view)
    assert asked[-1]["codes"][0] == old


def test_reconstruction_takes_ones_own_picture(opened, asked, tmp_path):
    picture(3, (900, 700)).save(tmp_path / "mine.jpg")
    view = opened("reconstruction")
    view.locator("input[type=file]").set_input_files(tmp_path / "mine.jpg")
    expect(view.locator(".vq-name")).to_contain_text("mine (")
    (tmp_path / "notes.jpg").write_text("no picture")
    view.locator("input[type=file]").set_input_files(tmp_path / "notes.jpg")
    expect(view.get_by_role("alert")).to_contain_text("notes.jpg is no picture")
    assert [a["do"] for a in asked] == ["open", "upload"]


def test_codebook_shows_the_code_pointed_at_and_what_a_lasso_holds(opened):
    view = opened("codebook")
    canvas, mouse = view.locator("canvas.vq-scatter"), view.page.mouse
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    mouse.move(box["x"] + box["width"] * 18 / 560, box["y"] + box["height"] * (1 - 18 / 560))
    expect(view.locator(".vq-info")).to_contain_text("code 0, picked")
    canvas.focus()
    view.page.keyboard.press("ArrowRight")
    expect(view.locator(".vq-info")).to_contain_text("code 4, picked")
    view.page.keyboard.press("Enter")
    expect(view.locator(".vq-info")).to_contain_text("1 selected")
    view.page.keyboard.press("Escape")
    expect(view.locator(".vq-info")).to_contain_text("0 selected")
    corners = [(0, 0), (0.5, 0), (0.5, 1), (0, 1)]               # the left half: codes 0 to 7
    points = [(box["x"] + 2 + x * (box["width"] - 4), box["y"] + 2 + y * (box["height"] - 4))
              for x, y in corners]
    mouse.move(*points[0])
    mouse.down()
    for point in points[1:]:
        mouse.move(*point, steps=4)
    mouse.up()
    expect(view.locator(".vq-info")).to_contain_text("8 selected")
    expect(view.locator(".vq-bars > div")).to_have_count(7)
    assert view.locator("[data-lit]").count() > 0
    view.get_by_role("button", name="Clear selection").click()
    expect(view.locator("[data-lit]")).to_have_count(0)


def test_sampler_draws_with_the_settings_on_the_screen(opened, asked, pipeline):
    view = opened("sampler")
    expect(view.locator(".vq-big img")).to_have_count(4)
    before = sources(view)
    view.get_by_label("diagnosis").select_option("mel")
    assert float(view.get_by_label("guidance").input_value()) == 2.0
    view.get_by_label("temperature").focus()
    view.page.keyboard.press("ArrowLeft")
    view.get_by_label("images").fill("3")
    view.get_by_label("seed").fill("7")
    view.get_by_role("button", name="Draw", exact=True).click()
    expect(view.locator(".vq-name").last).to_contain_text("class mel, n 3")
    idle(view)
    assert {name: asked[-1][name] for name in ("label", "n", "seed", "temperature", "guidance",
                                               "first_top_p")} == {
        "label": "mel", "n": 3, "seed": 7, "temperature": 0.95, "guidance": 2,
        "first_top_p": 0.95}
    assert len(sources(view)) == 3
    assert sources(view) != before[:3]
    view.get_by_label("decoder").select_option("least-squares")
    expect(view.locator(".vq-name").last).to_contain_text("decoder least-squares")
    view.get_by_role("button", name="Nearest training images").click()
    expect(view.locator(".vq-big img")).to_have_count(6)


def test_sampler_keeps_a_file_with_its_settings(opened, tmp_path):
    view = opened("sampler")
    with view.page.expect_download() as found:
        view.get_by_role("button", name="Download PNG").click()
    found.value.save_as(tmp_path / "a.png")
    assert found.value.suggested_filename == "any-seed-0.png"
    assert settings_of(tmp_path / "a.png")["first_top_p"] == 0.95


@pytest.mark.parametrize("seed", ["", "-3", "99999999999999999999999"])
def test_a_senseless_seed_is_told_in_one_line_beside_it(opened, seed):
    view = opened("sampler")
    view.get_by_label("seed").fill(seed)
    view.get_by_role("button", name="Draw", exact=True).click()
    alert = view.get_by_role("alert")
    expect(alert).to_contain_text("seed")
    expect(alert).to_contain_text("whole number")
    assert alert.evaluate("node => node.previousElementSibling.dataset.name") == "seed"
    view.get_by_label("seed").fill("1")
    view.get_by_role("button", name="Draw", exact=True).click()
    expect(alert).to_be_hidden()


def test_drawing_can_be_stopped(opened, asked, pipeline, monkeypatch):
    view = opened("sampler")
    growing = pipeline.gpt.growing

    def slowly(*args, **kwargs):
        for grown in growing(*args, **kwargs):
            time.sleep(0.2)
            yield grown

    monkeypatch.setattr(pipeline.gpt, "growing", slowly)
    view.get_by_role("button", name="Draw", exact=True).click()
    expect(view.locator("progress")).to_be_visible()
    view.get_by_role("button", name="Stop").click()
    expect(view.locator(".vq-line")).to_contain_text("stopped")
    expect(view.get_by_role("button", name="Stop")).to_be_hidden()


def test_inpainting_marks_by_keys_and_pointer_and_redraws_only_that(opened, asked):
    view = opened("inpainting")
    canvas, mouse = view.locator("canvas.vq-paint"), view.page.mouse
    view.get_by_role("button", name="Clear marks").click()
    expect(canvas).to_have_attribute("aria-label", words_of(0))
    expect(view.get_by_role("button", name="Redraw", exact=True)).to_be_disabled()
    view.get_by_label("brush, cells wide").fill("1")
    canvas.focus()
    for key in ("ArrowUp", "ArrowLeft", "Space"):
        view.page.keyboard.press(key)
    expect(canvas).to_have_attribute("aria-label", words_of(1))
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    mouse.move(box["x"] + 3, box["y"] + 3)
    mouse.down()
    mouse.move(box["x"] + box["width"] - 3, box["y"] + 3, steps=12)
    mouse.up()
    expect(canvas).to_have_attribute("aria-label", words_of(5))
    view.get_by_label("diagnosis").select_option("nv")
    view.get_by_role("button", name="Redraw", exact=True).click()
    expect(view.locator(".vq-big button")).to_have_count(3)
    idle(view)
    request = asked[-1]
    assert (request["do"], request["label"]) == ("redraw", "nv")
    assert request["mask"][:4] == [1, 1, 1, 1]
    assert sum(request["mask"]) == 5
    view.get_by_role("button", name="Undo").click()
    expect(canvas).to_have_attribute("aria-label", words_of(1))


def words_of(marked):
    return f"lesion of 4 x 4 cells, {marked} marked; arrow keys move, Space marks"


def test_inpainting_goes_on_from_a_redraw_and_back(opened, asked):
    view = opened("inpainting")
    idle(view)
    view.locator(".vq-big button").nth(1).click()
    expect(view.locator("canvas.vq-paint + p")).to_have_text("redraw 2 as mel")
    view.get_by_role("button", name="Redraw", exact=True).click()
    idle(view)
    view.get_by_role("button", name="Undo").click()
    expect(view.locator("canvas.vq-paint + p")).to_contain_text("a sample of class any")
    assert [a["do"] for a in asked] == ["open", "redraw"]


def test_tabs_open_what_they_show_when_they_are_chosen(opened, asked):
    view = opened("sampler", "reconstruction")
    page = view.page
    assert [a["do"] for a in asked] == ["open"]
    page.get_by_role("tab", name="Sampler").focus()
    page.keyboard.press("ArrowRight")
    page.locator(".vq[data-view=reconstruction]").wait_for()
    other = page.get_by_role("tab", name="Reconstruction")
    expect(other).to_have_attribute("aria-selected", "true")
    expect(view).to_be_hidden()
    assert [a["do"] for a in asked] == ["open", "open"]


def test_no_label_is_cut_and_every_control_has_one(opened):
    view = opened("sampler")
    cut = view.locator(".vq-field > span").evaluate_all(
        "nodes => nodes.filter((n) => n.scrollWidth > n.clientWidth + 1).map((n) => n.textContent)")
    assert cut == []
    bare = view.locator("input, select").evaluate_all(
        "nodes => nodes.filter((n) => !n.labels || !n.labels.length).length")
    assert bare == 0
    narrow = view.locator("input[type=range]:visible").evaluate_all(
        "nodes => nodes.filter((n) => n.clientWidth < 150).length")
    assert narrow == 0


def test_the_page_without_python_answers_offline(opened_offline):
    page = opened_offline
    view = page.locator(".vq[data-view=reconstruction]")
    view.get_by_role("button", name="painted 3").click()
    expect(view.locator(".vq-name")).to_contain_text("painted 3")
    view.locator("canvas.vq-cells").first.focus()
    page.keyboard.press("ArrowRight")
    expect(view.locator(".vq-info")).to_contain_text("row 1, column 2: code")
    expect(view.locator(".vq-line")).to_contain_text("needs Python")
    page.get_by_role("tab", name="Codebook").click()
    book = page.locator(".vq[data-view=codebook]")
    book.locator("canvas").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(book.locator(".vq-info")).to_contain_text("1 selected")
