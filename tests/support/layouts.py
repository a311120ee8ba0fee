"""Small data in the layouts that people have, by the title of the recipe that is about them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from converted import save


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _classification(root: Path) -> None:
    """Photos in a folder for each class, with the debris that folders collect."""
    rng = _rng()
    for name, count in (("cat", 12), ("dog", 10), ("horse", 8)):
        for i in range(count):
            save(root / "photos", {f"{name}/{i + 1:03}": rng.integers(0, 256, (32, 32, 3), np.uint8)})
    (root / "photos" / "README.txt").write_text("photos\n")
    save(root / "photos", {".ipynb_checkpoints/001-checkpoint": np.zeros((2, 2, 3), np.uint8)})


def _segmentation(root: Path) -> None:
    """Images and masks in two folders, whose names differ."""
    rng = _rng()
    for i in range(6):
        save(root / "data" / "images", {f"image_{i}": rng.random((16, 16, 3), np.float32)})
        save(root / "data" / "masks", {f"mask_{i}": rng.integers(0, 2, (16, 16), np.uint8)})


def _speech(root: Path) -> None:
    """Mel spectrograms and phonemes as LJSpeech recipes write them."""
    rng = _rng()
    for i in range(24):
        frames = int(rng.integers(40, 160))
        key = f"LJ{i // 8 + 1:03}-{{}}-{i % 8 + 1:04}"
        save(root / "tts" / "mel", {key.format("mel"): rng.normal(size=(frames, 80)).astype(np.float32)})
        save(root / "tts" / "ids", {key.format("ids"): rng.integers(1, 40, frames // 8)})


def _embeddings(root: Path) -> None:
    """Image and text embeddings as clip-retrieval writes them: a few arrays of many rows."""
    rng = _rng()
    for part, rows in enumerate((6, 6, 4)):
        for kind in ("img", "text"):
            rows_of_part = rng.normal(size=(rows, 512)).astype(np.float16)
            save(root / "clip" / f"{kind}_emb", {f"{kind}_emb_{part}": rows_of_part})


def _mnist(root: Path) -> None:
    """The archive that Keras downloads."""
    rng = _rng()
    parts = {}
    for split, count in (("train", 20), ("test", 5)):
        parts[f"x_{split}"] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        parts[f"y_{split}"] = rng.integers(0, 10, count, np.uint8)
    np.savez_compressed(root / "mnist.npz", **parts)


def _medmnist(root: Path) -> None:
    """MedMNIST: three splits in one archive, labels in a column."""
    rng = _rng()
    parts = {}
    for split, count in (("train", 12), ("val", 4), ("test", 6)):
        parts[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28, 3), np.uint8)
        parts[f"{split}_labels"] = rng.integers(0, 8, (count, 1), np.uint8)
    np.savez_compressed(root / "bloodmnist.npz", **parts)


def _corruptions(root: Path) -> None:
    """CIFAR-10-C: an array for each corruption, one array of labels for all."""
    rng = _rng()
    for name in ("brightness", "fog", "gaussian_noise"):
        save(root / "CIFAR-10-C", {name: rng.integers(0, 256, (10, 32, 32, 3), np.uint8)})
    save(root / "CIFAR-10-C", {"labels": np.array([3, 8, 8, 0, 6, 6, 1, 6, 3, 1])})


def _nnunet(root: Path) -> None:
    """nnU-Net's preprocessed cases: an archive with `data` and `seg`, and a pickle beside it."""
    rng = _rng()
    folder = root / "nnUNetPlans_3d_fullres"
    folder.mkdir()
    for i in range(6):
        size = (6 + i // 2, 10, 8)
        data = rng.normal(size=(1, *size)).astype(np.float32)
        np.savez_compressed(folder / f"liver_{i}.npz", data=data, seg=rng.integers(-1, 3, (1, *size), np.int8))
        (folder / f"liver_{i}.pkl").write_bytes(b"\x80\x04}\x94.")


def _brats(root: Path) -> None:
    """BraTS: a folder for each case, a file for each modality with the case's name in front."""
    rng = _rng()
    for i in (1, 2, 5, 8, 9, 12):
        case = f"BraTS20_Training_{i:03}"
        for modality in ("t1", "t1ce", "t2", "flair"):
            save(root / "brats", {f"{case}/{case}_{modality}": rng.normal(size=(12, 12, 8)).astype(np.float32)})
        save(root / "brats", {f"{case}/{case}_seg": rng.choice([0, 1, 2, 4], (12, 12, 8)).astype(np.uint8)})


def _sleep(root: Path) -> None:
    """Nights of EEG at 100 Hz: two channels, and a sleep stage for each 30 seconds."""
    rng = _rng()
    for subject, epochs in ((1, 6), (2, 10), (4, 8)):
        save(root / "sleep" / "eeg", {f"SC4{subject:02}1E0": rng.normal(size=(epochs * 3000, 2)).astype(np.float32)})
        save(
            root / "sleep" / "stages", {f"SC4{subject:02}1E0": rng.integers(0, 5, epochs).repeat(3000).astype(np.uint8)}
        )
    (root / "sleep" / "splits.csv").write_text("key,split\nSC4011E0,train\nSC4021E0,train\nSC4041E0,test\n")


def _patients(root: Path) -> None:
    """Scans with the patient and the finding in the file's name."""
    rng = _rng()
    for patient in range(1, 13):
        for scan in range(1 + patient % 3):
            finding = "malignant" if patient % 5 < 2 else "benign"
            save(root / "scans", {f"P{patient:03}_{scan + 1}_{finding}": rng.random((8, 8), np.float32)})


def _frames(root: Path) -> None:
    """Frames of two videos, numbered without zeros in front."""
    for video in ("run", "walk"):
        for frame in range(1, 13):
            save(root / "video", {f"{video}/frame_{frame}": np.full((4, 4), frame, np.uint8)})


def _regression(root: Path) -> None:
    """Spectra with a value to be predicted in a table, and several dtypes."""
    rng = _rng()
    with open(root / "targets.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["key", "label"])
        for i in range(10):
            dtype = np.float64 if i % 3 == 2 else np.float32
            save(root / "spectra", {f"s{i:02}": rng.random(64).astype(dtype)})
            table.writerow([f"s{i:02}", round(0.25 * i, 2)])


MAKERS: dict[str, Callable[[Path], None]] = {
    "Folders of classes": _classification,
    "Pairs of images and masks": _segmentation,
    "Speech: spectrograms and phonemes": _speech,
    "Embeddings of images and texts": _embeddings,
    "An archive like MNIST": _mnist,
    "MedMNIST": _medmnist,
    "CIFAR-10-C": _corruptions,
    "nnU-Net": _nnunet,
    "BraTS": _brats,
    "EEG in windows": _sleep,
    "Folds by patient": _patients,
    "Frames in order": _frames,
    "Numbers to be predicted": _regression,
}
"""What makes the data of each recipe below a directory."""
