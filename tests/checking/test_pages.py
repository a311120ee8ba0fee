"""The pages of `info --html` and `scan --html`: whole, self-contained, small, and safe whatever files are called."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import Command, save

from npy2tfrecord.commands.snippets import reading_snippets
from npy2tfrecord.formats import manifest_parsing

pytest.importorskip("matplotlib")

from npy2tfrecord.checking import gallery, viewer

MOST_BYTES = 2_000_000
EMPTY_ELEMENTS = {"meta", "img", "br"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """A page taken apart. Every element must be closed where it should be."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        content = path.read_bytes()
        assert len(content) <= MOST_BYTES
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.codes: list[str] = []
        self.feed(content.decode())
        self.close()
        assert not self.open
        self.check()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY_ELEMENTS:
            self.open.append(tag)
        if tag == "code":
            self.codes.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] == "code":
            self.codes[-1] += data
        if not self.open or self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    def check(self) -> None:
        """Nothing is loaded, the only script is the page's own, and pictures have descriptions."""
        assert len(self.scripts) == 1
        (policy,) = [a["content"] for tag, a in self.elements if tag == "meta" and "http-equiv" in a]
        assert policy is not None
        assert policy.startswith("default-src 'none'; img-src data:;")
        for tag, attributes in self.elements:
            assert tag not in ("link", "iframe", "object", "base", "form", "a")
            for name, value in attributes.items():
                assert not name.startswith("on"), (tag, name)
                if name in ("src", "href", "srcset", "action"):
                    assert str(value).startswith("data:image/"), (tag, name)
            if tag == "img":
                assert attributes["alt"]
        assert self.elements[0] == ("html", {"lang": "en"})

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def pictures(self) -> list[str]:
        return [str(a["alt"]) for tag, a in self.elements if tag == "img"]


HOSTILE = (
    b"<script>alert(1)</script>",
    b'"><img src=x onerror=alert(1)>',
    b"' onmouseover='alert(1)",
    b"&lt;b&gt; &amp;",
    b"\x1b[31mred\x07",
    b"\xff\xfe not utf-8",
    "\u202eright to left".encode(),
    b"a\nb",
    b"]]>--><!--",
    b"$x_1$ %s {0}",
)


def hostile_files(root: Path) -> Path:
    """Arrays in folders of hostile names, and one that is damaged."""
    for i, name in enumerate(HOSTILE):
        folder = os.path.join(os.fsencode(root), name.replace(b"/", b"_"))
        os.makedirs(folder)
        for number in range(2):
            with open(os.path.join(folder, name.replace(b"/", b"_") + b"%d.npy" % number), "wb") as file:
                np.save(file, np.full((3 + i, 4), i, "f4"))
    with open(os.path.join(folder, b"<b>damaged.npy"), "wb") as file:
        file.write(b"<script>")
    return root


def test_page_of_a_data_set(tmp_path: Path, command: Command) -> None:
    rng = np.random.default_rng(0)
    source = save(
        tmp_path / "in", {f"{kind}/{i}": rng.normal(size=(5 + i, 40)).astype("f4") for kind in "ab" for i in range(9)}
    )
    out = tmp_path / "out"
    command.ok("convert", source, out, "--labels", "dirs", "--split", "train=0.7,val=0.3", "--stats", "-q")
    plain = command.ok("info", out).out
    assert command.ok("info", out, "--html", tmp_path / "page.html").out == plain
    page = Page(tmp_path / "page.html")
    for text in ("18 examples in 2 shards", "(5–13, 40)", "train-00000-of-00001.tfrecord", "0 a", "1 b", "deviation"):
        assert text in page.text
    assert sum(alt.startswith("spectrogram of ") for alt in page.pictures) == 12
    assert {alt for alt in page.pictures if alt.startswith("Chart")} >= {"Chart: array: axis 0", "Chart: Classes"}
    before = (tmp_path / "page.html").read_bytes()
    command.ok("info", out, "--html", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == before


def test_names_of_files_are_text_whatever_they_hold(tmp_path: Path, command: Command) -> None:
    source, out = hostile_files(tmp_path / "<i>in&"), tmp_path / "<u>out'\""
    done = command("convert", source, out, "--labels", "dirs", "--on-error", "skip", "-q")
    assert done.code == 3
    command.ok("info", out, "--html", tmp_path / "info.html")
    assert command("scan", source, "--on-error", "skip", "--html", tmp_path / "scan.html").code == 3
    for name in ("info.html", "scan.html"):
        page = Page(tmp_path / name)
        assert "<b>damaged.npy" in page.text
        assert not {"b", "i", "u", "svg"} & {tag for tag, _ in page.elements}
        assert "\x1b" not in page.text
        assert "\\xff\\xfe not utf-8" in page.text
    assert "<script>alert(1)<_script>" in Page(tmp_path / "info.html").text


def test_page_of_sources(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "img", {f"{i}": np.zeros((8, 8, 3), "u1") for i in range(20)})
    save(tmp_path / "msk", {f"{i}": np.zeros((8, 8), "u1") for i in range(20)})
    (tmp_path / "img" / "notes.txt").write_text("x")
    command.ok("scan", f"image={tmp_path}/img", f"mask={tmp_path}/msk", "--html", tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert len([alt for alt in page.pictures if alt.startswith("image of ")]) == 24
    assert "20 examples" in page.text
    assert ".txt" in page.text
    assert page.codes == [f"npy2tfrecord convert image={tmp_path}/img mask={tmp_path}/msk OUT"]
    np.save(tmp_path / "X.npy", np.arange(60, dtype="f8").reshape(10, 6).T.copy().T)
    command.ok("scan", "--rows", tmp_path / "X.npy", "--html", tmp_path / "rows.html")
    assert "series of X#9: array float64 (6,)" in Page(tmp_path / "rows.html").pictures


def test_page_stays_small_whatever_the_set(tmp_path: Path, command: Command) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"m{j}": rng.integers(0, 256, (200, 201 + j, 3), dtype="u1") for j in range(7)}
    (tmp_path / "in").mkdir()
    for i in range(300):
        small = {name: array if i < 12 else array[:1] for name, array in arrays.items()}
        folder = tmp_path / "in" / f"{'long' * 50}{i:03}"
        folder.mkdir()
        np.savez(folder / "x.npz", **{name: array[: 200 if i < 4 else 2, :300] for name, array in small.items()})
    words = ("--labels", "dirs", "--num-shards", "150", "-q", "--no-fsync")
    command.ok("convert", tmp_path / "in", tmp_path / "out", *words)
    command.ok("info", tmp_path / "out", "--html", tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "… and 50 more" in page.text
    command.ok("scan", tmp_path / "in", "--html", tmp_path / "scan.html")
    Page(tmp_path / "scan.html")


@pytest.mark.parametrize(
    ("dtype", "shape", "kind"),
    [
        ("f4", (50,), "series"), ("i8", (50, 6), "image"), ("f4", (50, 6), "series"), ("f4", (50, 2), "points"),
        ("f8", (50, 3), "points"), ("f4", (200, 80), "spectrogram"), ("f4", (30, 30), "map"), ("u1", (9, 9), "image"),
        ("bool", (9, 9), "image"), ("u1", (9, 9, 3), "image"), ("f4", (9, 9, 1), "image"), ("f4", (3, 32, 32), "image"),
        ("i2", (20, 30, 30), "volume"), ("u1", (12, 8, 8, 3), "volume"), ("c8", (5, 5), "map"), ("f2", (1, 1), "map"),
        ("M8[D]", (4,), "series"), ("u1", (2, 3, 4, 5, 6), "volume"), ("f4", (1, 1, 3), "volume"),
    ],
)  # fmt: skip
def test_arrays_are_drawn_by_what_they_are(dtype: str, shape: tuple[int, ...], kind: str) -> None:
    for value in (0, 1):
        drawing = gallery.draw(np.full(shape, value).astype(dtype), first_axis_varies=False)
        assert drawing is not None
        assert drawing.kind == kind
        assert drawing.png.startswith(b"\x89PNG")


def test_strange_values_are_drawn(tmp_path: Path) -> None:
    odd = np.array([np.nan, np.inf, -np.inf, np.finfo("f8").max, np.finfo("f8").min, 0], "f8")
    for shape in ((6,), (3, 2), (2, 3), (1, 2, 3), (6, 1, 1)):
        assert gallery.draw(odd.reshape(shape), first_axis_varies=True) is not None
    assert gallery.draw(np.zeros((0, 3)), first_axis_varies=True) is None
    assert gallery.draw(np.array(3), first_axis_varies=False) is None


def run_lines(snippets: Sequence[str], here: Path) -> str:
    """What all of the lines print, run one after the other."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(snippets)], cwd=here, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lines_on_the_page_read_the_set(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "same", {f"{kind}/{i}": rng.normal(size=(8, 8)).astype("f4") for kind in "ab" for i in range(40)})
    save(tmp_path / "vary", {f"{i}": np.zeros((3 + i, 8), "f4") for i in range(40)})
    command.ok("convert", "same", "it's", "--labels", "dirs", "-q")
    command.ok("convert", "vary", "vary.out", "-q")
    command.ok("convert", "vary", "gz", "--compression", "gzip", "-q")
    lines = []
    for out in ("it's", "vary.out", "gz"):
        command.ok("info", out, "--html", "page.html")
        page = Page(Path("page.html"))
        snippets = reading_snippets(manifest_parsing.load(out), out)
        assert page.codes[: len(snippets)] == list(snippets.values())
        for name, needs in (("PyTorch", "torch"), ("JAX with Grain", "grain")):
            try:
                __import__(needs)
            except ImportError:
                snippets.pop(name, None)
        lines += snippets.values()
    said = run_lines(lines, tmp_path)
    assert "(32, 8, 8)" in said
    assert "(8, 8) 80" in said


def test_samples_lie_all_over_the_set(tmp_path: Path, command: Command) -> None:
    source = save(tmp_path / "in", {f"{i:03}": np.full(3, i) for i in range(100)})
    for packing in ("none", "gzip"):
        out = tmp_path / packing
        words = ("--no-shuffle", "--num-shards", "7", "--compression", packing, "-q")
        command.ok("convert", source, out, *words)
        seen = viewer.sample(out, 5)
        expected = ["000", "025", "050", "074", "099"] if packing == "none" else [f"00{i}" for i in range(5)]
        assert [view.key.decode() for view in seen] == expected
        for view in seen:
            assert view.arrays["array"].tolist() == [int(view.key)] * 3
        assert len(viewer.sample(out, 1000)) == 100
    shard = next((tmp_path / "none").glob("*-00003-*.tfrecord"))
    data = bytearray(shard.read_bytes())
    data[40:-40] = bytes(len(data) - 80)
    shard.write_bytes(data)
    command.refused(7, shard.name, words=("info", tmp_path / "none", "--html", tmp_path / "x.html"))


def test_errors_of_a_page(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "in", {"a": np.zeros(3)})
    command.ok("convert", source, tmp_path / "out", "-q")
    command.refused(5, "cannot write", words=("info", tmp_path / "out", "--html", tmp_path / "none" / "x.html"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for words in (("info", tmp_path / "out"), ("scan", source)):
        page = tmp_path / "x.html"
        command.refused(2, "needs the package matplotlib", words=(*words, "--html", page), out=page)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, to open the page in a browser")
def test_page_opens_in_a_browser(tmp_path: Path, command: Command) -> None:
    source = hostile_files(tmp_path / "in")
    command("convert", source, tmp_path / "out", "--on-error", "skip", "-q")
    command.ok("info", tmp_path / "out", "--html", tmp_path / "page.html")
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    words += ["--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom"]
    done = subprocess.run(
        [str(CHROMIUM), *words, (tmp_path / "page.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not re.search(r"CONSOLE", done.stderr), done.stderr
    snippets = reading_snippets(manifest_parsing.load(tmp_path / "out"), "out")
    assert done.stdout.count('<button type="button"') == len(snippets)  # the page's script ran
    picture: Any = re.search(r"<img[^>]*>", done.stdout)
    assert picture


def test_a_manifest_shows_itself_in_a_notebook(tmp_path: Path, command: Command) -> None:
    out = tmp_path / "out"
    command("convert", hostile_files(tmp_path / "in"), out, "--labels", "dirs", "--on-error", "skip", "-q")
    shown = manifest_parsing.load(out)._repr_html_()
    assert "<td" in shown
    assert "20 examples in 1 shard" in shown
    assert "&lt;script&gt;alert(1)&lt;_script&gt;" in shown
    assert "<script" not in shown
