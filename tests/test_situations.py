"""What people have, what they run and what they want: from files to values, each kind of layout once.

`a/1.npy` stands for that file's array, `a/1.npy#2` for its row 2, `m.npz[x]#2` for a row of a member.
"""

from __future__ import annotations

import io
import re
import shlex
import unicodedata
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import Command, same

import readers

Files = Mapping[str, Any]


def put(root: Path, files: Files) -> None:
    """Write files: arrays by np.save, dicts by np.savez, text and bytes as they are."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            np.savez(path, **content)
        elif isinstance(content, str | bytes):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            with path.open("wb") as file:
                np.save(file, content)


def value(root: Path, place: str) -> np.ndarray:
    """What NumPy says is in a file, in a member of one, or in a row of either."""
    match = re.fullmatch(r"(.+?\.np[yz])(?:\[(.+)\])?(?:#(\d+))?", place, re.IGNORECASE)
    assert match, place
    found = np.load(root / match[1], allow_pickle=False)
    array = found if match[2] is None else found[match[2]]
    return np.asarray(array if match[3] is None else array[int(match[3])])


def table(column: str, rows: Mapping[str, object]) -> str:
    return f"key,{column}\n" + "".join(f"{key},{label}\n" for key, label in rows.items())


def npy(array: Any) -> bytes:
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    """An archive as other programs write it, with members of any name."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return data.getvalue()


_RNG = np.random.default_rng(13)


def f4(*shape: int) -> np.ndarray:
    return _RNG.normal(size=shape).astype(np.float32)


def u1(*shape: int) -> np.ndarray:
    return _RNG.integers(0, 256, shape, np.uint8)


@dataclass(frozen=True, kw_only=True)
class Situation:
    """The files that a person has, the options and sources for `convert`, and the examples that are wanted."""

    has: Files
    runs: str
    wants: Mapping[str, Mapping[str, Mapping[str, Any]]]  # split, key, feature: its value's place; label, or class
    says: tuple[str, ...] = ()
    code: int = 0
    tensorflow: bool = False  # read with load_dataset too
    as_written: Mapping[str, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)  # by feature


def one_split(examples: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    return {"train": examples}


def arrays(places: Mapping[str, str]) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Examples of one array each."""
    return one_split({key: {"array": place} for key, place in places.items()})


MNIST = {f"{x}_{s}": u1(n, 4, 4) if x == "x" else u1(n) for s, n in (("train", 6), ("test", 3)) for x in "xy"}
MEDMNIST = {
    f"{split}_{kind}": u1(n, 4, 4, 3) if kind == "images" else u1(n, 1)
    for split, n in (("train", 5), ("val", 2), ("test", 3))
    for kind in ("images", "labels")
}
CASES = ("BraTS20_Training_001", "BraTS20_Training_002")
MODALITIES = ("t1", "t1ce", "t2", "flair", "seg")
TWELVE = [f"s{i:02}" for i in range(12)]
CORRUPTIONS = ("fog", "gaussian_noise")

SITUATIONS: dict[str, Situation] = {
    # --- labels ---------------------------------------------------------------------------------------------------
    "integers written as floats": Situation(
        has={f"d/{key}.npy": f4(2) for key in TWELVE}
        | {"t.csv": table("label", {key: f"{i}.0" for i, key in enumerate(TWELVE)})},
        runs="d --labels t.csv",
        wants=one_split({key: {"array": f"d/{key}.npy", "label": i} for i, key in enumerate(TWELVE)}),
        tensorflow=True,
    ),
    "targets": Situation(
        has={f"d/{key}.npy": f4(2) for key in TWELVE}
        | {"t.csv": table("label", {key: i - 5.5 for i, key in enumerate(TWELVE)})},
        runs="d --labels t.csv",
        wants=one_split({key: {"array": f"d/{key}.npy", "label": i - 5.5} for i, key in enumerate(TWELVE)}),
        says=("label  float32  numbers",),
        tensorflow=True,
    ),
    "folders that are numbers": Situation(
        has={f"d/{i}/a.npy": f4(2) for i in range(12)},
        runs="d --labels dirs",
        wants=one_split({f"{i}/a": {"array": f"d/{i}/a.npy", "label": i} for i in range(12)}),
    ),
    "splits that are folders, with classes below": Situation(
        has={f"d/{s}/{c}/{i}.npy": u1(4, 4, 3) for s in ("train", "val") for c in ("cat", "dog") for i in range(2)},
        runs="d --split dirs --labels dirs",
        wants={
            s: {f"{s}/{c}/{i}": {"array": f"d/{s}/{c}/{i}.npy", "label": c} for c in ("cat", "dog") for i in range(2)}
            for s in ("train", "val")
        },
        tensorflow=True,
    ),
    "the class in the file's name": Situation(
        has={f"esc/{fold}-1001-A-{target}.npy": f4(3) for fold in (1, 2) for target in (0, 10, 36)},
        runs=r"esc --label-by '-(\d+)$' --split 2-fold --split-by '^\d'",
        wants={
            f"fold{n}": {f"{fold}-1001-A-{t}": {"array": f"esc/{fold}-1001-A-{t}.npy", "label": t} for t in (0, 10, 36)}
            for n, fold in enumerate((2, 1))
        },
    ),
    "the class in the second folder": Situation(
        has={f"d/site{s}/{c}/{i}.npy": f4(2) for s in "AB" for c in ("ill", "well") for i in range(2)},
        runs="d --label-by '^[^/]+/([^/]+)/'",
        wants=one_split(
            {
                f"site{s}/{c}/{i}": {"array": f"d/site{s}/{c}/{i}.npy", "label": c}
                for s in "AB"
                for c in ("ill", "well")
                for i in range(2)
            }
        ),
    ),
    "the class in the archive's name": Situation(
        has={f"d/{c}_{i}.npz": {"rgb": u1(2, 2, 3), "depth": f4(2, 2)} for c in ("cup", "pen") for i in range(2)},
        runs="d --label-by '^[a-z]+'",
        wants=one_split(
            {
                f"{c}_{i}": {"rgb": f"d/{c}_{i}.npz[rgb]", "depth": f"d/{c}_{i}.npz[depth]", "label": c}
                for c in ("cup", "pen")
                for i in range(2)
            }
        ),
    ),
    "LibriSpeech, with the speaker as the label": Situation(
        has={f"d/{s}/{c}/{s}-{c}-000{u}.npy": f4(u + 2, 4) for s, c in ((84, 121), (174, 50)) for u in range(3)}
        | {"d/84/121/84-121.trans.txt": "84-121-0000 GO"},
        runs="d --labels dirs",
        wants=one_split(
            {
                f"{s}/{c}/{s}-{c}-000{u}": {"array": f"d/{s}/{c}/{s}-{c}-000{u}.npy", "label": s}
                for s, c in ((84, 121), (174, 50))
                for u in range(3)
            }
        ),
        says=("Passed over: 1 .txt",),
        tensorflow=True,
    ),
    "a table with letters in two spellings": Situation(
        has={unicodedata.normalize("NFD", "d/größe.npy"): f4(2), "t.csv": table("label", {"größe": 7})},
        runs="d --labels t.csv",
        wants=one_split(
            {
                unicodedata.normalize("NFD", "größe"): {
                    "array": unicodedata.normalize("NFD", "d/größe.npy"),
                    "label": 7,
                }
            }
        ),
    ),
    "a table with a byte order mark": Situation(
        has={"d/a.npy": f4(2), "t.csv": "\ufeff" + table("label", {"a": "Öl"}).replace("\n", "\r\n")},
        runs="d --labels t.csv",
        wants=one_split({"a": {"array": "d/a.npy", "label": "Öl"}}),
    ),
    # --- which files ----------------------------------------------------------------------------------------------
    "suffixes in capitals": Situation(
        has={"d/A.NPY": f4(2), "d/b.npy": f4(2)},
        runs="d",
        wants=arrays({"A": "d/A.NPY", "b": "d/b.npy"}),
    ),
    "debris": Situation(
        has={
            **{f"d/{c}/{i}.npy": f4(2) for c in ("cat", "dog") for i in range(2)},
            "d/.ipynb_checkpoints/0-checkpoint.npy": f4(2),
            "d/cat/.ipynb_checkpoints/0-checkpoint.npy": f4(2),
            "d/__MACOSX/cat/._0.npy": b"\0\5\x16\7",
            "d/cat/._0.npy": b"\0\5\x16\7",
            "d/.DS_Store": b"x",
            "d/labels.txt": "x",
            "d/0.npy.tmp": "x",
        },
        runs="d --labels dirs",
        wants=one_split(
            {f"{c}/{i}": {"array": f"d/{c}/{i}.npy", "label": c} for c in ("cat", "dog") for i in range(2)}
        ),
        says=("Passed over: 5 hidden, 1 .tmp, 1 .txt",),
    ),
    "hidden files that are named": Situation(
        has={"d/.cache/a.npy": f4(2), "d/b.npy": f4(2)},
        runs="d --include .cache/ --include b.npy",
        wants=arrays({".cache/a": "d/.cache/a.npy", "b": "d/b.npy"}),
    ),
    "a file:// URL": Situation(
        has={"my data/a.npy": f4(2)},
        runs="array=file://HERE/my%20data",
        wants=arrays({"a": "my data/a.npy"}),
    ),
    # --- features that belong together ----------------------------------------------------------------------------
    "images and masks of other names": Situation(
        has={f"d/{kind}s/{kind}_{i}.npy": u1(3, 3) for kind in ("image", "mask") for i in (0, 1, 10)},
        runs=r"image=d/images mask=d/masks --key-by '\d+$'",
        wants=one_split(
            {str(i): {"image": f"d/images/image_{i}.npy", "mask": f"d/masks/mask_{i}.npy"} for i in (0, 1, 10)}
        ),
        tensorflow=True,
    ),
    "spectrograms and phonemes of several speakers": Situation(
        has={
            f"{kind}/{s}-{kind}-{i}.npy": f4(i + 3, 4) if kind == "mel" else np.arange(i + 1)
            for kind in ("mel", "ids")
            for s in ("LJ", "VC")
            for i in (7, 8)
        },
        runs=r"mel=mel ids=ids --key-by '^(\w+)-\w+-(\d+)$'",
        wants=one_split(
            {
                f"{s}/{i}": {"mel": f"mel/{s}-mel-{i}.npy", "ids": f"ids/{s}-ids-{i}.npy"}
                for s in ("LJ", "VC")
                for i in (7, 8)
            }
        ),
        tensorflow=True,
    ),
    "three kinds side by side in one folder": Situation(
        has={
            f"d/{i}_{kind}.npy": np.int64(i) if kind == "label" else f4(3)
            for i in (2, 7, 10)
            for kind in ("clean", "noisy", "label")
        },
        runs=r"clean=d:*_clean.npy noisy=d:*_noisy.npy y=d:*_label.npy --key-by '^\d+'",
        wants=one_split(
            {
                str(i): {"clean": f"d/{i}_clean.npy", "noisy": f"d/{i}_noisy.npy", "y": f"d/{i}_label.npy"}
                for i in (2, 7, 10)
            }
        ),
    ),
    "series with dots in their names": Situation(
        has={f"d/1.3.6.1.4.1.{i}_{kind}.npy": f4(3) for i in range(3) for kind in ("clean", "nodule")},
        runs="clean=d:*_clean.npy nodule=d:*_nodule.npy --key-by '^(.*)_'",
        wants=one_split(
            {
                f"1.3.6.1.4.1.{i}": {
                    "clean": f"d/1.3.6.1.4.1.{i}_clean.npy",
                    "nodule": f"d/1.3.6.1.4.1.{i}_nodule.npy",
                }
                for i in range(3)
            }
        ),
    ),
    "a folder for each case": Situation(
        has={f"brats/{c}/{c}_{m}.npy": u1(3, 3, 2) if m == "seg" else f4(3, 3, 2) for c in CASES for m in MODALITIES},
        runs=" ".join(f"{m}=brats:*_{m}.npy" for m in MODALITIES) + " --key-by '^([^/]+)/'",
        wants=one_split({c: {m: f"brats/{c}/{c}_{m}.npy" for m in MODALITIES} for c in CASES}),
        tensorflow=True,
    ),
    "a folder for each case, files of the same names": Situation(
        has={f"d/case{c}/{kind}.npy": f4(3) for c in (1, 2) for kind in ("image", "mask")},
        runs="image=d:image.npy mask=d:mask.npy --key-by '^[^/]+'",
        wants=one_split({f"case{c}": {"image": f"d/case{c}/image.npy", "mask": f"d/case{c}/mask.npy"} for c in (1, 2)}),
    ),
    "splits, and features below them": Situation(
        has={f"d/{s}/{k}/{i}.npy": u1(2, 2) for s in ("train", "val") for k in ("img", "msk") for i in range(2)},
        runs=r"img=d:*/img/ msk=d:*/msk/ --key-by '^(\w+)/\w+/(\d+)$' --split dirs",
        wants={
            s: {f"{s}/{i}": {k: f"d/{s}/{k}/{i}.npy" for k in ("img", "msk")} for i in range(2)}
            for s in ("train", "val")
        },
    ),
    "features, and splits below them": Situation(
        has={f"{k}/{s}/{i}.npy": u1(2, 2) for s in ("train", "val") for k in ("img", "msk") for i in range(2)},
        runs="img=img msk=msk --split dirs",
        wants={
            s: {f"{s}/{i}": {k: f"{k}/{s}/{i}.npy" for k in ("img", "msk")} for i in range(2)} for s in ("train", "val")
        },
    ),
    "archives of cases": Situation(
        has={
            f"p/liver_{i}.npz": {"data": f4(1, i + 2, 3), "seg": np.int8(_RNG.integers(-1, 2, (1, i + 2, 3)))}
            for i in range(3)
        }
        | {f"p/liver_{i}.pkl": b"\x80\4}\x94." for i in range(3)},
        runs="p",
        wants=one_split({f"liver_{i}": {k: f"p/liver_{i}.npz[{k}]" for k in ("data", "seg")} for i in range(3)}),
        says=("Passed over: 3 .pkl",),
        tensorflow=True,
    ),
    "one feature of archives that hold objects too": Situation(
        has={f"p/{i}.npz": {"image": f4(2, 2), "meta": np.array(["scanner"]), "spacing": np.ones(3)} for i in range(2)},
        runs="image=p spacing=p",
        wants=one_split({str(i): {k: f"p/{i}.npz[{k}]" for k in ("image", "spacing")} for i in range(2)}),
    ),
    "a class first, and splits below it": Situation(
        has={f"m/{c}/{s}/{c}_{i}.npy": f4(5, 3) for c in ("bed", "desk") for s in ("train", "test") for i in range(2)},
        runs="train:points=m:*/train/ test:points=m:*/test/ --labels dirs",
        wants={
            s: {
                f"{s}/{c}/{s}/{c}_{i}": {"points": f"m/{c}/{s}/{c}_{i}.npy", "label": c}
                for c in ("bed", "desk")
                for i in range(2)
            }
            for s in ("train", "test")
        },
    ),
    "folds that are folders, with the class in the name": Situation(
        has={f"u/fold{f}/100{f}-{c}-0-0.npy": f4(3) for f in (1, 10) for c in (0, 3)},
        runs=r"u --split dirs --label-by '-(\d+)-\d+-\d+$'",
        wants={
            f"fold{f}": {
                f"fold{f}/100{f}-{c}-0-0": {"array": f"u/fold{f}/100{f}-{c}-0-0.npy", "label": c} for c in (0, 3)
            }
            for f in (1, 10)
        },
    ),
    "arrays beside archives": Situation(
        has={f"att/{i}.npz": {"feat": f4(i + 1, 5)} for i in range(2)}
        | {f"{k}/{i}.npy": f4(i + 1, 4) for k in ("fc", "box") for i in range(2)},
        runs="att=att fc=fc box=box",
        wants=one_split(
            {str(i): {"att": f"att/{i}.npz[feat]", "fc": f"fc/{i}.npy", "box": f"box/{i}.npy"} for i in range(2)}
        ),
    ),
    "names with zeros in front, and without": Situation(
        has={f"im/{i:03}.npy": u1(2, 2) for i in (0, 7, 10)} | {f"ms/{i}.npy": u1(2, 2) for i in (0, 7, 10)},
        runs=r"image=im mask=ms --key-by '0*(\d+)$'",
        wants=one_split({str(i): {"image": f"im/{i:03}.npy", "mask": f"ms/{i}.npy"} for i in (0, 7, 10)}),
    ),
    # --- rows -----------------------------------------------------------------------------------------------------
    "X and y": Situation(
        has={"X.npy": f4(5, 3), "y.npy": np.arange(5)},
        runs="--rows x=X.npy y=y.npy",
        wants=one_split({f"X#{i}": {"x": f"X.npy#{i}", "y": f"y.npy#{i}"} for i in range(5)}),
        tensorflow=True,
    ),
    "X and y of two splits": Situation(
        has={
            f"{a}_{s}.npy": f4(n, 3) if a == "X" else np.arange(n) for a in "Xy" for s, n in (("train", 4), ("test", 2))
        },
        runs="--rows train:x=X_train.npy train:y=y_train.npy test:x=X_test.npy test:y=y_test.npy",
        wants={
            s: {f"{s}/X_{s}#{i}": {"x": f"X_{s}.npy#{i}", "y": f"y_{s}.npy#{i}"} for i in range(n)}
            for s, n in (("train", 4), ("test", 2))
        },
    ),
    "MNIST as Keras has it": Situation(
        has={"mnist.npz": MNIST},
        runs="--rows " + " ".join(f"'{s}:{x}=mnist.npz[{x}_{s}]'" for s in ("train", "test") for x in "xy"),
        wants={
            s: {f"{s}/mnist#{i}": {x: f"mnist.npz[{x}_{s}]#{i}" for x in "xy"} for i in range(n)}
            for s, n in (("train", 6), ("test", 3))
        },
        tensorflow=True,
    ),
    "MedMNIST": Situation(
        has={"blood.npz": MEDMNIST},
        runs="--rows "
        + " ".join(f"'{s}:{k}=blood.npz[{s}_{k}]'" for s in ("train", "val", "test") for k in ("images", "labels")),
        wants={
            s: {f"{s}/blood#{i}": {k: f"blood.npz[{s}_{k}]#{i}" for k in ("images", "labels")} for i in range(n)}
            for s, n in (("train", 5), ("val", 2), ("test", 3))
        },
    ),
    "CIFAR-10-C": Situation(
        has={f"C/{name}.npy": u1(6, 2, 2, 3) for name in CORRUPTIONS} | {"C/labels.npy": np.array([3, 8, 8, 0, 6, 1])},
        runs="--rows C --labels C/labels.npy --exclude labels.npy",
        wants=one_split(
            {
                f"{name}#{i}": {"array": f"C/{name}.npy#{i}", "label": label}
                for name in CORRUPTIONS
                for i, label in enumerate((3, 8, 8, 0, 6, 1))
            }
        ),
        tensorflow=True,
    ),
    "CIFAR-10-C, each corruption a split": Situation(
        has={f"C/{name}.npy": u1(6, 2, 2, 3) for name in CORRUPTIONS} | {"C/labels.npy": np.array([3, 8, 8, 0, 6, 1])},
        runs="--rows --labels C/labels.npy " + " ".join(f"{name}:x=C/{name}.npy" for name in CORRUPTIONS),
        wants={
            name: {
                f"{name}/{name}#{i}": {"x": f"C/{name}.npy#{i}", "label": label}
                for i, label in enumerate((3, 8, 8, 0, 6, 1))
            }
            for name in CORRUPTIONS
        },
    ),
    "words as labels of rows": Situation(
        has={"X.npy": f4(3, 2), "y.npy": np.array(["owl", "ant", "owl"])},
        runs="--rows X.npy --labels y.npy",
        wants=one_split({f"X#{i}": {"array": f"X.npy#{i}", "label": c} for i, c in enumerate(("owl", "ant", "owl"))}),
    ),
    "targets of rows": Situation(
        has={"X.npy": f4(3, 2), "y.npy": np.array([0.5, 1.0, -2.25])},
        runs="--rows X.npy --labels y.npy",
        wants=one_split({f"X#{i}": {"array": f"X.npy#{i}", "label": y} for i, y in enumerate((0.5, 1.0, -2.25))}),
    ),
    "embeddings of images and texts": Situation(
        has={f"{k}_emb/{k}_emb_{i}.npy": f4(n, 8).astype("f2") for k in ("img", "text") for i, n in enumerate((3, 2))}
        | {f"metadata/metadata_{i}.parquet": b"PAR1" for i in range(2)},
        runs=r"--rows image=img_emb text=text_emb --key-by '\d+$'",
        wants=one_split(
            {
                f"{f}#{i}": {"image": f"img_emb/img_emb_{f}.npy#{i}", "text": f"text_emb/text_emb_{f}.npy#{i}"}
                for f, n in enumerate((3, 2))
                for i in range(n)
            }
        ),
    ),
    "embeddings of two splits": Situation(
        has={
            f"{s}/{k}_emb/{k}_emb_{i}.npy": f4(2, 4) for s in ("train", "val") for k in ("img", "txt") for i in (0, 1)
        },
        runs="--rows "
        + " ".join(f"{s}:{k}={s}/{k}_emb" for s in ("train", "val") for k in ("img", "txt"))
        + r" --key-by '\d+$'",
        wants={
            s: {
                f"{s}/{i}#{r}": {k: f"{s}/{k}_emb/{k}_emb_{i}.npy#{r}" for k in ("img", "txt")}
                for i in (0, 1)
                for r in (0, 1)
            }
            for s in ("train", "val")
        },
    ),
    "a file of rows for each class": Situation(
        has={f"q/full_numpy_bitmap_{c}.npy": u1(3, 9) for c in ("cat", "aircraft carrier")},
        runs="--rows q --label-by 'bitmap_(.*)$'",
        wants=one_split(
            {
                f"full_numpy_bitmap_{c}#{i}": {"array": f"q/full_numpy_bitmap_{c}.npy#{i}", "label": c}
                for c in ("cat", "aircraft carrier")
                for i in range(3)
            }
        ),
    ),
    "a folder of rows for each split": Situation(
        has={
            f"h/{s}/{k}.npy": f4(n, 3) if k == "X" else np.arange(n)
            for s, n in (("train", 3), ("test", 2))
            for k in "Xy"
        },
        runs="--rows x=h:X.npy y=h:y.npy --split dirs --key-by '^([^/]+)/'",
        wants={
            s: {f"{s}#{i}": {"x": f"h/{s}/X.npy#{i}", "y": f"h/{s}/y.npy#{i}"} for i in range(n)}
            for s, n in (("train", 3), ("test", 2))
        },
    ),
    "nights of epochs in archives": Situation(
        has={
            f"edf/SC40{n}1.npz": {"x": f4(n + 2, 30, 1), "y": np.arange(n + 2), "fs": 100, "ch": "EEG"} for n in (1, 2)
        },
        runs=r"--rows x=edf y=edf --split 2-fold --split-by '^SC4\d\d'",
        wants={
            f"fold{f}": {f"SC40{n}1#{i}": {k: f"edf/SC40{n}1.npz[{k}]#{i}" for k in "xy"} for i in range(n + 2)}
            for f, n in enumerate((2, 1))
        },
    ),
    "embeddings and their ids": Situation(
        has={"vectors.npy": f4(4, 8), "ids.npy": np.array([2**40 + i for i in range(4)])},
        runs="--rows vector=vectors.npy id=ids.npy",
        wants=one_split({f"vectors#{i}": {"vector": f"vectors.npy#{i}", "id": f"ids.npy#{i}"} for i in range(4)}),
    ),
    # --- archives -------------------------------------------------------------------------------------------------
    "an archive of utterances": Situation(
        has={"u.npz": {f"utt{i:03}": f4(i % 5 + 1, 4) for i in range(70)}},
        runs="--members u.npz",
        wants=arrays({f"u/utt{i:03}": f"u.npz[utt{i:03}]" for i in range(70)}),
        tensorflow=True,
    ),
    "archives of utterances, a speaker each": Situation(
        has={f"d/{s}.npz": {f"{s}_{i}": f4(i + 1, 4) for i in range(3)} for s in ("amy", "bob")},
        runs="--members d --label-by '^[a-z]+'",
        wants=one_split(
            {f"{s}/{s}_{i}": {"array": f"d/{s}.npz[{s}_{i}]", "label": s} for s in ("amy", "bob") for i in range(3)}
        ),
    ),
    "members in folders of episodes": Situation(
        has={f"runs/{i}.npz": {"obs/image": u1(3, 2, 2), "action": f4(3, 2)} for i in range(2)},
        runs="image=runs[obs/image] action=runs[action]",
        wants=one_split(
            {str(i): {"image": f"runs/{i}.npz[obs/image]", "action": f"runs/{i}.npz[action]"} for i in range(2)}
        ),
    ),
    "members without a suffix": Situation(
        has={"m.npz": zipped({"x": npy(f4(3)), "y": npy(f4(3))})},
        runs="m.npz",
        wants=one_split({"m": {"x": "m.npz[x]", "y": "m.npz[y]"}}),
    ),
    # --- dtypes and ranks -----------------------------------------------------------------------------------------
    "float32 and float64 in one folder": Situation(
        has={"d/a.npy": f4(3), "d/b.npy": f4(3).astype("f8"), "d/c.npy": f4(3).astype(">f8")},
        runs="d --dtype float32",
        wants=arrays({key: f"d/{key}.npy" for key in "abc"}),
        as_written={"array": lambda array: array.astype("<f4")},
        tensorflow=True,
    ),
    "gray and colour": Situation(
        has={"d/gray.npy": u1(3, 2), "d/rgb.npy": u1(3, 2, 3)},
        runs="d --rank 3",
        wants=arrays({"gray": "d/gray.npy", "rgb": "d/rgb.npy"}),
        as_written={"array": lambda array: array.reshape((*array.shape, 1)[:3])},
        tensorflow=True,
    ),
    "times": Situation(
        has={"t.npy": np.array(["2020-01-01", "NaT"], "datetime64[s]"), "x.npy": f4(2)},
        runs="--rows t=t.npy x=x.npy",
        wants=one_split({f"t#{i}": {"t": f"t.npy#{i}", "x": f"x.npy#{i}"} for i in range(2)}),
    ),
    # --- splits ---------------------------------------------------------------------------------------------------
    "folds of patients": Situation(
        has={f"d/P{p:02}_{i}.npy": f4(2) for p in range(4) for i in range(2)}
        | {"t.csv": table("split", {f"P{p:02}_{i}": f"fold{p % 2}" for p in range(4) for i in range(2)})},
        runs="d --split t.csv",
        wants={
            f"fold{f}": {f"P{p:02}_{i}": {"array": f"d/P{p:02}_{i}.npy"} for p in (f, f + 2) for i in range(2)}
            for f in range(2)
        },
    ),
    "lists of splits for some of the files": Situation(
        has={f"d/{i}.npy": f4(2) for i in range(4)} | {"t.csv": table("split", {0: "train", 2: "test", 9: "test"})},
        runs="d --split t.csv --missing skip",
        wants={"train": {"0": {"array": "d/0.npy"}}, "test": {"2": {"array": "d/2.npy"}}},
        code=3,
    ),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_situation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, name: str) -> None:
    situation = SITUATIONS[name]
    put(tmp_path, situation.has)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(situation.runs.replace("HERE", str(tmp_path)))
    result = command("convert", *words, "out")
    assert result.code == situation.code, result
    for text in situation.says:
        assert text in result.out
    assert set(readers.load_manifest("out").splits) == set(situation.wants)
    for split, wanted in situation.wants.items():
        check(tmp_path, situation, wanted, list(readers.ArraySource("out", split=split)))
    if situation.tensorflow:
        pytest.importorskip("tensorflow")
        for split, wanted in situation.wants.items():
            elements = readers.load_dataset("out", split=split).as_numpy_iterator()
            check(tmp_path, situation, wanted, [element | {"key": element["key"].decode()} for element in elements])


def check(root: Path, situation: Situation, wanted: Mapping[str, Mapping[str, Any]], found: list[Any]) -> None:
    """Compare the examples that were read with those that are wanted."""
    classes = readers.load_manifest(root / "out").labels
    assert sorted(example["key"] for example in found) == sorted(wanted)
    for example in found:
        expected = wanted[example["key"]]
        assert example.keys() == {"key", *expected}
        for feature, place in expected.items():
            if feature == "label":
                label = classes[int(example["label"])] if isinstance(place, str) and classes else example["label"]
                assert label == place
            else:
                array = value(root, place)
                as_written = situation.as_written.get(feature)
                assert same(example[feature], as_written(array) if as_written else array), (example["key"], feature)


# --- what is refused, and what is said then --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Files, and options and sources for `convert` that can't give what is wanted; and what the message says."""

    has: Files
    runs: str
    code: int
    says: tuple[str, ...]


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
FOLDER = {f"d/{key}.npy": f4(2) for key in "abc"}

REFUSALS: dict[str, Refusal] = {
    # --- labels ---------------------------------------------------------------------------------------------------
    "a typo among integers": Refusal(
        has=FOLDER | {"t.csv": "key,label\na,1\nb,1O\nc,3\n"},
        runs="d --labels t.csv",
        code=4,
        says=("t.csv: 1 of 3 labels are no numbers: line 3 ('1O')",),
    ),
    "nan among integers": Refusal(
        has=FOLDER | {"t.csv": "key,label\na,1\nb,nan\nc,3\n"},
        runs="d --labels t.csv",
        code=4,
        says=("line 3 ('nan')",),
    ),
    "decimal commas": Refusal(
        has=FOLDER | {"t.csv": 'key,label\na,"0,5"\nb,"1,5"\nc,"2,5"\n'},
        runs="d --labels t.csv",
        code=4,
        says=("numbers with a comma: line 2 ('0,5')", "0.5, not 0,5"),
    ),
    "a table in Latin-1": Refusal(
        has=FOLDER | {"t.csv": "key,label\na,x\nb,Öl\nc,x\n".encode("latin-1")},
        runs="d --labels t.csv",
        code=4,
        says=("t.csv: line 3 is not UTF-8", "CSV UTF-8"),
    ),
    "folders that are numbers, but for one": Refusal(
        has={f"d/{c}/a.npy": f4(2) for c in ("0", "1", "other")},
        runs="d --labels dirs",
        code=4,
        says=("folder other",),
    ),
    "a table with file names": Refusal(
        has=FOLDER | {"t.csv": "key,label\na.npy,1\nb.npy,1\nc.npy,2\n"},
        runs="d --labels t.csv",
        code=4,
        says=("no label for 3 keys, e.g. a, b, c", "keys have no suffix"),
    ),
    "labels of all rows of several files": Refusal(
        has={"d/a.npy": f4(2, 3), "d/b.npy": f4(2, 3), "y.npy": np.arange(4)},
        runs="--rows d --labels y.npy",
        code=4,
        says=("4 labels", "count from 0 in each", "expected 2"),
    ),
    # --- places ---------------------------------------------------------------------------------------------------
    "sources in a place that nobody knows": Refusal(
        has={}, runs="hdfs://name/x", code=2, says=("hdfs:// is not supported",)
    ),
    "a table in a bucket": Refusal(
        has=FOLDER, runs="d --split s3://bucket/x.csv", code=2, says=("s3:// is not supported",)
    ),
    # --- which files ----------------------------------------------------------------------------------------------
    "a compressed file": Refusal(
        has=FOLDER | {"d/z.npy.gz": b"\x1f\x8b"}, runs="d", code=4, says=("d/z.npy.gz", "unpack it first", "--exclude")
    ),
    "an empty folder of masks": Refusal(
        has=FOLDER | {"m/readme.txt": "x"},
        runs="image=d mask=m",
        code=2,
        says=("source m: no .npy or .npz file found in it",),
    ),
    "a pattern with a typo": Refusal(
        has={"d/1_clean.npy": f4(2), "d/1_noisy.npy": f4(2)},
        runs=r"clean=d:*_clean.npy noisy=d:*_nosiy.npy --key-by '^\d+'",
        code=2,
        says=("source d:*_nosiy.npy: no .npy or .npz file found in it",),
    ),
    "a file in a download's place": Refusal(has=FOLDER | {"d/a.npy": LFS}, runs="d", code=4, says=("git lfs pull",)),
    "a page in a download's place": Refusal(
        has=FOLDER | {"d/a.npy": b"<!DOCTYPE html><html><title>Sign in</title>"},
        runs="d",
        code=4,
        says=("an HTML page",),
    ),
    "an AppleDouble file that was named": Refusal(
        has=FOLDER | {"d/._a.npy": b"\0\5\x16\7\0\2\0\0Mac OS X"},
        runs="d --include '*'  --include '._*'",
        code=4,
        says=("AppleDouble", "--exclude '._*'"),
    ),
    "half a download": Refusal(
        has=FOLDER | {"d/a.npy": npy(f4(1000))[:2000]}, runs="d", code=4, says=("d/a.npy", "4128 bytes", "2000")
    ),
    "objects": Refusal(
        has=FOLDER | {"d/a.npy": npy(np.array([{}, 1], dtype=object))},
        runs="d",
        code=4,
        says=("d/a.npy", "never loaded", "allow_pickle=False"),
    ),
    "line ends that a copy changed": Refusal(
        has=FOLDER | {"d/a.npy": npy(f4(4)).replace(b"\n", b"\r\n")}, runs="d", code=4, says=("d/a.npy", "\\r")
    ),
    # --- what an example is -----------------------------------------------------------------------------------------
    "an archive of utterances without --members": Refusal(
        has={"u.npz": {f"utt{i:03}": f4(2) for i in range(70)}},
        runs="u.npz",
        code=2,
        says=("more than 64 members", "--members"),
    ),
    "series with dots and --group-by-suffix": Refusal(
        has={f"d/1.3.6.1.4.1.{i}_{kind}.npy": f4(3) for i in range(3) for kind in ("clean", "nodule")},
        runs="d --group-by-suffix",
        code=2,
        says=("6 features, each of one key only", "clean=DIR:*_clean.npy"),
    ),
    "a regular expression that finds too little": Refusal(
        has={"d/a/mel-1.npy": f4(2), "d/b/mel-1.npy": f4(2)},
        runs=r"d --key-by '\d+$'",
        code=4,
        says=("d/a/mel-1.npy", "d/b/mel-1.npy", "key '1'"),
    ),
    "float32 and float64": Refusal(
        has={"d/a.npy": f4(3), "d/b.npy": f4(3).astype("f8")}, runs="d", code=4, says=("--dtype float64",)
    ),
    "gray and colour without --rank": Refusal(
        has={"d/gray.npy": u1(3, 2), "d/rgb.npy": u1(3, 2, 3)}, runs="d", code=4, says=("--rank 3",)
    ),
    "images and masks in one feature": Refusal(
        has={"d/i.npy": f4(3, 2, 3), "d/m.npy": u1(3, 2)},
        runs="d",
        code=4,
        says=("expected one dtype and rank a feature: give each kind a name of its own, NAME=PATH or NAME=DIR:GLOB",),
    ),
    "pairs that have no name in common": Refusal(
        has={"im/image_1.npy": f4(2), "ms/mask_1.npy": f4(2)},
        runs="image=im mask=ms",
        code=4,
        says=("1 has no image, e.g. mask_1", "--key-by REGEX"),
    ),
    "fewer patients than folds": Refusal(
        has={f"d/P{p}_{i}.npy": f4(2) for p in range(3) for i in range(5)},
        runs=r"d --split 4-fold --split-by '^P\d'",
        code=2,
        says=("3 groups by", "too few for 4 folds"),
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, name: str) -> None:
    refusal = REFUSALS[name]
    put(tmp_path, refusal.has)
    monkeypatch.chdir(tmp_path)
    words = ("convert", *shlex.split(refusal.runs), "out")
    command.refused(refusal.code, *refusal.says, words=words, out=tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {name.partition("/")[0] for name in refusal.has}


# --- how it is read ---------------------------------------------------------------------------------------------------


def test_frames_are_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    """Frames are numbered without zeros in front, and a video is to be read from front to back."""
    pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    put(tmp_path, {f"v/frame_{i}.npy": np.full(2, i) for i in range(1, 101)})
    assert "--sort natural" in command.ok("scan", "v").out
    command.ok("convert", "v", "out", "--no-shuffle", "--sort", "natural", "--num-shards", "3")
    for batch_size in (None, 7):
        dataset = readers.load_dataset("out", features="array", batch_size=batch_size)
        found = np.concatenate([np.atleast_2d(each) for each in dataset.as_numpy_iterator()])
        assert found[:, 0].tolist() == list(range(1, 101))
    assert [example["array"][0] for example in readers.ArraySource("out")] == list(range(1, 101))


def test_all_folds_but_one_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    """Twelve patients with two scans each, cross-validated in four folds: three patients in each."""
    pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    put(tmp_path, {f"d/P{p:02}_{i}.npy": np.array([p, i]) for p in range(12) for i in range(2)})
    command.ok("convert", "d", "out", "--split", "4-fold", "--split-by", r"^P\d+")
    patients = [{example["array"][0] for example in readers.ArraySource("out", split=f"fold{f}")} for f in range(4)]
    assert [len(each) for each in patients] == [3, 3, 3, 3]
    assert set.union(*patients) == set(range(12))
    train = readers.load_dataset("out", split="fold0+fold1+fold2", features="array", batch_size=5, shuffle=True)
    found = np.concatenate([*train.as_numpy_iterator()])
    assert sorted(map(tuple, found.tolist())) == sorted((p, i) for p in set.union(*patients[:3]) for i in range(2))
    assert len(readers.ArraySource("out", split="fold0+fold1+fold2")) == 18


def test_nights_of_several_sets_are_read_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    """A set for each month; the last is added when the others have long been converted."""
    pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    months = ("01", "02", "03")
    for month in months:
        put(tmp_path, {f"{month}/{month}-{i}.npy": f4(i + 2, 3) for i in range(3)})
        command.ok("convert", month, f"sets/{month}")
    paths = [f"sets/{month}" for month in months]
    keys = {f"{month}-{i}" for month in months for i in range(3)}
    assert {example["key"] for example in readers.ArraySource(paths)} == keys
    dataset = readers.load_dataset(paths)
    assert len(dataset) == 9
    for element in dataset.as_numpy_iterator():
        key = element["key"].decode()
        assert same(element["array"], np.load(f"{key[:2]}/{key}.npy"))


def test_inputs_by_name_for_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    """A model of two inputs takes `({"image": …, "aux": …}, label)`."""
    pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    put(tmp_path, {"I.npy": u1(4, 3, 3), "A.npy": f4(4, 2), "y.npy": np.arange(4)})
    command.ok("convert", "--rows", "image=I.npy", "aux=A.npy", "y=y.npy", "out", "--no-shuffle")
    dataset = readers.load_dataset("out", features=({"image": "image", "aux": "aux"}, "y"), batch_size=4)
    ((inputs, label),) = dataset.as_numpy_iterator()
    assert same(inputs["image"], np.load("I.npy"))
    assert same(inputs["aux"], np.load("A.npy"))
    assert label.tolist() == [0, 1, 2, 3]


def test_recordings_are_read_in_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    """Recordings of different length, with a mark for each point in time: windows of 40 every 20."""
    pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    lengths = {"n1": 100, "n2": 130, "n3": 39}
    put(tmp_path, {f"eeg/{key}.npy": f4(n, 2) for key, n in lengths.items()})
    put(tmp_path, {f"mark/{key}.npy": _RNG.integers(0, 2, n, np.uint8) for key, n in lengths.items()})
    command.ok("convert", "eeg=eeg", "mark=mark", "out", "--no-shuffle")
    dataset = readers.load_dataset("out", window=40, hop=20)
    found = []
    for element in dataset.as_numpy_iterator():
        key, start = element["key"].decode(), int(element["start"])
        for feature in ("eeg", "mark"):
            assert same(element[feature], np.load(f"{feature}/{key}.npy")[start : start + 40])
        found.append((key, start))
    assert found == [("n1", start) for start in (0, 20, 40, 60)] + [("n2", start) for start in (0, 20, 40, 60, 80)]
    assert len(dataset) == 9
