"""Small sets of arrays that look like real ones: pictures by class, spectrograms of speech, volumes with masks.

All values follow from the seed, and are rounded to steps far larger than the last bits in which processors differ.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

SEED = 17

FLOWERS_A_CLASS = 80
FLOWER_PIXELS = 48

SPEAKERS = ("anna", "ben", "chen", "dina", "emil", "fatou")
TAKES = 4  # of each word by each speaker
MEL_BINS = 80
DECIBEL_STEPS = 64  # to one decibel

SCANS = 12
SCAN_PIXELS = 48
AIR, BRAIN, FLUID, BONE, LESION = -1000, 35, 8, 900, 75  # in Hounsfield units


class Flower(NamedTuple):
    """What the flowers of a class have in common: petals, their colour, and the heart's colour and size."""

    petals: int
    color: tuple[int, int, int]
    heart: tuple[int, int, int]
    heart_size: float


FLOWERS = {
    "daisy": Flower(13, (238, 238, 230), (240, 195, 30), 0.3),
    "poppy": Flower(4, (215, 45, 30), (40, 25, 40), 0.25),
    "sunflower": Flower(21, (245, 185, 20), (95, 55, 20), 0.5),
}


def demo_files() -> Iterator[tuple[str, bytes]]:
    """The path below the demo's directory and the content of every file, in sorted order of sets and keys."""
    for path, array in (*_flowers(), *_scans(), *_speech()):
        content = io.BytesIO()
        np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
        yield f"{path}.npy", content.getvalue()


def _flowers() -> Iterator[tuple[str, np.ndarray]]:
    """A flower on a meadow: uint8 (48, 48, 3)."""
    rng = np.random.default_rng([SEED, 0])
    y, x = np.mgrid[-1 : 1 : FLOWER_PIXELS * 1j, -1 : 1 : FLOWER_PIXELS * 1j]
    for name, flower in FLOWERS.items():
        for number in range(FLOWERS_A_CLASS):
            center = rng.uniform(-0.25, 0.25, 2)
            size, turn, light = rng.uniform(0.55, 0.9), rng.uniform(0, 2 * np.pi), rng.uniform(0.75, 1.05)
            distance = np.hypot(y - center[0], x - center[1]) / size
            angle = np.arctan2(y - center[0], x - center[1]) + turn
            petal = np.abs(np.cos(angle * flower.petals / 2))
            image = np.array((70, 125, 50)) + rng.normal(0, 14, (FLOWER_PIXELS, FLOWER_PIXELS, 1))
            shade = (0.55 + 0.45 * petal) * (0.75 + 0.25 * distance)
            for inside, color in (
                (distance < 0.6 + 0.4 * petal, shade[..., None] * flower.color),
                (distance < flower.heart_size, (1.1 - 0.4 * distance[..., None]) * flower.heart),
            ):
                image = np.where(inside[..., None], color, image)
            image = light * image + rng.normal(0, 6, image.shape)
            yield f"flowers/{name}/{number:03}", image.round().clip(0, 255).astype(np.uint8)


def _speech() -> Iterator[tuple[str, np.ndarray]]:
    """A word said by someone, in decibels by time and mel bin: float32 (time, 80)."""
    rng = np.random.default_rng([SEED, 1])
    bins = np.arange(MEL_BINS)
    for speaker in SPEAKERS:
        pitch, tract = rng.uniform(4.5, 8.5), rng.uniform(0.92, 1.08)  # the distance of harmonics, and a throat's size
        for word in ("no", "yes"):
            for take in range(TAKES):
                frames = int(rng.integers(40, 161))
                time = np.linspace(0, 1, frames)[:, None]
                voiced = np.clip(np.minimum(time, (1 if word == "no" else 0.65) - time) * 12, 0, 1)
                glide = time if word == "no" else 1.2 - time
                energy = 0.4 + 0.6 * np.cos(2 * np.pi * bins / (pitch * (1 + 0.08 * np.sin(5 * time)))) ** 2
                formants = (14 + 4 * glide, 46 - 16 * glide, 58 + 0 * glide)
                envelope = sum(np.exp(-(((bins - tract * formant) / 5) ** 2)) for formant in formants)
                hiss = np.clip((time - 0.65) * 12, 0, 1) * (word == "yes") / (1 + np.exp((52 - bins) / 3))
                decibels = -70 + 55 * voiced * energy * envelope + 45 * hiss + rng.normal(0, 2.5, (frames, MEL_BINS))
                rounded = (decibels * DECIBEL_STEPS).round() / DECIBEL_STEPS
                yield f"speech/{speaker}/{word}-{take}", rounded.astype(np.float32)


def _scans() -> Iterator[tuple[str, np.ndarray]]:
    """A head in slices from below to above, int16 (slices, 48, 48), and its lesions as a mask of 0 and 1."""
    rng = np.random.default_rng([SEED, 2])
    for number in range(SCANS):
        slices = int(rng.integers(12, 25))
        z, y, x = np.mgrid[-0.8 : 0.9 : slices * 1j, -1 : 1 : SCAN_PIXELS * 1j, -1 : 1 : SCAN_PIXELS * 1j]
        radius = np.sqrt((x / rng.uniform(0.68, 0.76)) ** 2 + (y / rng.uniform(0.84, 0.92)) ** 2 + z**2)
        ventricles = np.hypot((np.abs(x) - 0.14) / 0.09, np.hypot(y / 0.3, z / 0.35)) < 1
        mask = np.zeros(z.shape, bool)
        for _ in range(rng.integers(1, 4)):
            place, size = rng.uniform(-0.42, 0.42, 3), rng.uniform(0.1, 0.24)
            mask |= np.sqrt((z - place[0]) ** 2 + (y - place[1]) ** 2 + (x - place[2]) ** 2) < size
        mask &= radius < 0.85
        tissue = np.select([radius > 1, radius > 0.88, mask, ventricles], [AIR, BONE, LESION, FLUID], BRAIN)
        image = tissue + rng.normal(0, 10, z.shape)
        yield f"scans/image/{number:03}", image.round().astype(np.int16)
        yield f"scans/mask/{number:03}", mask.astype(np.uint8)
