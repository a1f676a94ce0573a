"""What the C library does with memory that tensors leave."""
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3                           # names in glibc's mallopt(3)


def keep_pages() -> bool:
    """Have glibc keep up to 2 GB of what is freed for the tensors of the next update; False where there is no glibc.

    By default it returns large blocks to the kernel, which clears every page of them anew: an update of the report's VQ-VAE
    then takes a fifth longer. Blocks above 32 MB, glibc's limit, are returned all the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(M_MMAP_THRESHOLD, 2**25) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
