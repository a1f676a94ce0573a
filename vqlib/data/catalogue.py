"""Published data sets: where their files lie, how large they are, and the digests to check.

Sizes are exact where `exact` says so, else as their publishers show them; 0: nobody says. No
digest is made up: "" where none is published.
"""
import hashlib
from dataclasses import dataclass
from pathlib import Path

from vqlib.data.synthetic import CLASSES

CC = "CC BY-NC 4.0"
ISIC_BASES = ("https://isic-archive.s3.amazonaws.com/challenges",  # since September 2025
              "https://isic-challenge-data.s3.amazonaws.com")


@dataclass(frozen=True)
class File:
    """One file, the same wherever it is fetched from."""

    name: str
    urls: tuple[str, ...]
    size: int = 0                # bytes
    digest: str = ""             # "md5:..." or "sha256:..."
    exact: bool = True           # the size is that of the file, not rounded


@dataclass(frozen=True)
class Published:
    """A data set. ways: lists of files; the first list that can be fetched whole is enough."""

    title: str
    images: int
    ways: tuple[tuple[File, ...], ...]
    licence: str = CC
    classes: tuple[str, ...] = CLASSES

    @property
    def size(self) -> int:
        return sum(file.size for file in self.ways[0])

    @property
    def is_archive(self) -> bool:
        return self.ways[0][0].name.endswith(".npz")


def dataverse(name: str, number: int, size: int, sha256: str, original=False) -> File:
    url = f"https://dataverse.harvard.edu/api/access/datafile/{number}"
    return File(name, (url + "?format=original" * original,), size, f"sha256:{sha256}")


def isic(year: int, name: str, size: int, digest="", exact=False) -> File:
    return File(name, tuple(f"{base}/{year}/{name}" for base in ISIC_BASES), size, digest, exact)


def zenodo(record: int, name: str, size: int, md5: str, exact=False) -> File:
    urls = (f"https://zenodo.org/records/{record}/files/{name}?download=1",
            f"https://zenodo.org/api/records/{record}/files/{name}/content")
    return File(name, urls, size, f"md5:{md5}", exact)


def derma(title: str, images: int, *file, **options) -> Published:
    return Published(title, images, ((zenodo(*file, **options),),))


HAM_DATAVERSE = (
    dataverse("HAM10000_metadata.csv", 4338392, 690_218, original=True,
              sha256="de17ec44cb25ea9c3f6378ba18d69224c740afd62e86ec2edc6a894d6aa663d3"),
    dataverse("HAM10000_images_part_1.zip", 3172585, 1_366_522_108,
              "6202a599129c2efe81c25aea8586d422eeda8a4fae5df49dd7b7bbf956d419db"),
    dataverse("HAM10000_images_part_2.zip", 3172584, 1_403_566_547,
              "9677f30118c21ecc667a147de369d89acb25efab046fd32f6b13ad677ce2d6d0"),
)
ISIC2018_TRAINING = (
    isic(2018, "ISIC2018_Task3_Training_GroundTruth.zip", 36_000,
         "md5:8302427e4ce0c107559531b9f444abe9"),
    isic(2018, "ISIC2018_Task3_Training_LesionGroupings.csv", 481_000,
         "md5:9517b6aa6902d6c27e234bac8279a64a"),
    isic(2018, "ISIC2018_Task3_Training_Input.zip", 2_771_732_744, exact=True),
)
ISIC2018_HELD_OUT = (
    isic(2018, "ISIC2018_Task3_Validation_GroundTruth.zip", 7_000),
    isic(2018, "ISIC2018_Task3_Validation_Input.zip", 51_000_000),
    isic(2018, "ISIC2018_Task3_Test_GroundTruth.zip", 11_000),
    isic(2018, "ISIC2018_Task3_Test_Input.zip", 401_000_000),
)
ISIC2019_TRAINING = (
    isic(2019, "ISIC_2019_Training_GroundTruth.csv", 1_291_479, exact=True),
    isic(2019, "ISIC_2019_Training_Metadata.csv", 1_214_351, exact=True),
    isic(2019, "ISIC_2019_Training_Input.zip", 9_771_618_190, exact=True),
)
CATALOGUE = {
    "ham10000": Published("HAM10000", 10_015, (HAM_DATAVERSE, ISIC2018_TRAINING)),
    "isic2018": Published("ISIC 2018 task 3, its three parts", 11_720,
                          ((*ISIC2018_TRAINING, *ISIC2018_HELD_OUT),), "CC BY-NC"),
    "isic2019": Published("ISIC 2019, training part", 25_331, (ISIC2019_TRAINING,), "CC BY-NC"),
    "dermamnist-28": derma("DermaMNIST, 28 px", 10_015, 10519652, "dermamnist.npz", 19_700_000,
                           "0744692d530f8e62ec473284d019b0c7"),
    "dermamnist-64": derma("DermaMNIST, 64 px", 10_015, 10519652, "dermamnist_64.npz",
                           100_100_000, "b70a2f5635c6199aeaa28c31d7202e1f"),
    "dermamnist-128": derma("DermaMNIST, 128 px", 10_015, 10519652, "dermamnist_128.npz",
                            350_000_000, "2defd784463fa5243564e855ed717de1"),
    "dermamnist-224": derma("DermaMNIST, 224 px", 10_015, 10519652, "dermamnist_224.npz",
                            1_050_000_000, "8974907d8e169bef5f5b96bc506ae45d"),
    "dermamnist-c-28": derma("DermaMNIST-C, 28 px", 10_015, 12739457,
                             "dermamnist_corrected_28.npz", 0,
                             "96e2862980877d45d9cacb5c25de6950"),
    "dermamnist-c-224": derma("DermaMNIST-C, 224 px", 10_015, 12739457,
                              "dermamnist_corrected_224.npz", 1_131_258_316,
                              "84920fb70c83b234c295b6f0d4ae2bc0", exact=True),
    "dermamnist-e-28": derma("DermaMNIST-E, 28 px", 11_719, 12739457,
                             "dermamnist_extended_28.npz", 0,
                             "ecacbf37d9cc79340226bd19bd4c7463"),
    "dermamnist-e-224": derma("DermaMNIST-E, 224 px", 11_719, 12739457,
                              "dermamnist_extended_224.npz", 0,
                              "b59d6a78a036a0bb48a1eff13d94333c"),
}


def digest_of(path: Path, like: str) -> str:
    """The digest of a file, as "md5:...", by the algorithm that `like` begins with."""
    algorithm = like.partition(":")[0]
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def published_file(path: Path, images: int) -> Published | None:
    """The set that an archive of so many images is, by its digest; None if it is no known one."""
    known = {entry.ways[0][0].digest: entry for entry in CATALOGUE.values()
             if entry.images == images and entry.is_archive}
    return known.get(digest_of(path, "md5:")) if known else None
