"""Numbers that the report computes from saved ones and from the course report's own."""
import numpy as np

from vqlib.data.decode import Geometry
from vqlib.metrics import REPORT_MEAN, REPORT_STD
from vqlib.presets import PRESETS

WRITTEN = PRESETS["report"]  # the settings of the course report's text
MEAN, STD = np.array(REPORT_MEAN), np.array(REPORT_STD)


def area_share(geometry: Geometry, width: int, height: int) -> float:
    """Share of a file's area that the crop shows, once the shorter side is `resize`."""
    scale = (geometry.resize or min(width, height)) / min(width, height)
    return geometry.crop**2 / (width * height * scale**2)


def of_course_report(course: dict, geometry: Geometry) -> dict:
    """What follows from the course report's values, for a run with this geometry."""
    within, between = float((STD**2).mean()), float(MEAN.var())
    variance, shift = course["variance"].value, float(-10 * np.log10((STD**2).mean()))
    size = course["width"].value, course["height"].value
    too_bright = 255 * (MEAN[0] - MEAN)                  # red's statistics undo each channel's
    return {
        "variance": {"within": within, "between": between, "times": 1 / variance,
                     "commitment": WRITTEN.vqvae.beta * variance},
        "psnr": {"shift": shift, "course": course["psnr"].value + shift},
        "area": {"course": area_share(WRITTEN.geometry, *size),
                 "here": area_share(geometry, *size)},
        "colour_shift": {"green": float(too_bright[1]), "blue": float(too_bright[2])},
        "heads_total": WRITTEN.windowed.heads * int(course["head_width"].value),
    }


def of_data(data: dict) -> dict:
    """Totals of what notebook 1 counted: {class: (images, lesions)}."""
    counts = data["counts"]
    images = sum(images for images, _ in counts.values())
    name = max(counts, key=lambda name: counts[name][0])
    return {"n_images": images, "n_lesions": sum(lesions for _, lesions in counts.values()),
            "largest": {"name": name, "share": counts[name][0] / images},
            "statistics": {"red": data["mean"][0], "course_red": REPORT_MEAN[0]}}


def reconstructions(results: dict) -> dict:
    """The two VQ-VAEs of notebook 2: this preset's first, then the one with the other settings."""
    names = [name for name, found in results.items() if isinstance(found, dict) and "psnr" in found]
    ours, other = (results[name] for name in names)
    return {"names": names, "ours": ours, "other": other}

