"""What each figure of the notebooks shows, for readers who do not see it.

One sentence or two without numbers of a run, so that it holds for each preset and data set. Every
name that a notebook saves a figure under stands here (tests/report/test_names.py).
"""
ALT_TEXTS = {
    "01_classes": "Bar chart: number of images and number of lesions of each class.",
    "01_samples": "Rows of images of the data, one row for each class, one image of each lesion.",
    "01_augmentation": "Grid of images of the data: the first row as stored, below it the same "
                       "images flipped and turned at random.",
    "01_channels": "Two histograms of pixel values with a line for red, green and blue: in the "
                   "range from zero to one, and normalised per channel.",
    "02_training": "Two line charts against updates for two trainings: reconstruction error, and "
                   "perplexity of a batch.",
    "02_usage": "Line chart: share of picks of each code by rank, for two codebooks. A collapsed "
                "codebook ends in a cliff.",
    "02_reconstructions": "Two grids of images, drawn by seed and the worst: in each the "
                          "originals, and their reconstructions by two models.",
    "02_classes": "Two charts with a dot and an error bar for each class: PSNR and SSIM.",
    "02_ablations": "Dot chart: PSNR of each row of the study of VQ-VAEs, a dot for each seed "
                    "and a bar at their mean.",
    "02_axes": "Bar chart: variance of encoder outputs along their widest axes, and the error "
               "that is left once they are codes.",
    "02_flow_decoder_training": "Line chart: the flow decoder's training loss against updates.",
    "02_explorer": "An image, its reconstruction, where they differ, and its grid of codes as "
                   "colours.",
    "03_shuffled": "Three rows of images: originals, decoded from their codes, and decoded from "
                   "the same codes in random order, which shows texture without lesions.",
    "03_patches": "Grid of small tiles from dark to light: what each code paints.",
    "03_umap": "Two scatter plots of the codes, by UMAP and by principal components: dots in the "
               "colour that the code paints, sized by use.",
    "03_umap_baseline": "Two scatter plots by UMAP: a codebook in use, and the baseline's, where "
                        "crosses mark codes that no image picks.",
    "03_classes": "Heat map of how much more often each class uses each code than all images do, "
                  "beside the tiles of each class's most typical codes.",
    "04_order": "Four grids: which cells the prior has written after more and more codes, from "
                "coarse to fine.",
    "04_training": "Two line charts against updates for both priors: nats per code on training "
                   "and held-out images, and the learning rate.",
    "04_cells": "Two heat maps of the grid: mean nats per code of each cell, for the whole grid "
                "and for the window.",
    "04_entropy_constrained": "Line chart: PSNR against bits per code of entropy-constrained "
                              "codes, with the nearest codes marked.",
    "05_random_codes": "Two rows of decoded random codes: textures without a lesion.",
    "05_flow_decoder": "Rows of images: originals, least-squares reconstructions, two draws of "
                       "the flow decoder, and where draws differ.",
    "05_two_priors": "Two grids of generated images: left from the window, right from the whole "
                     "grid.",
    "05_samples": "Grid of generated images from the whole grid.",
    "05_photographs": "Grid of images of the validation split, for comparison with samples.",
    "05_classes": "Rows of generated images, one row for each class that was asked for.",
    "05_temperature": "Rows of generated images, one row for each temperature, with the same "
                      "seed.",
    "05_psnr": "Two histograms of PSNR over images: in the course report's units, and on pixels "
               "from zero to one, with a line at the course report's value in each.",
    "05_nearest": "Rows of generated images, and below each row the nearest training images.",
    "05_cas": "Chart: classification accuracy score after each codec against bytes per image, "
              "with intervals.",
    "05_ablations": "Dot chart: nats per code of each row of the study of priors, a dot for each "
                    "seed and a bar at their mean.",
}

# outputs of cells that save no figure
PICTURE = "Picture that the cell above draws."
EXPLORER = "Still picture of the explorer that the cell above opens in JupyterLab."
NO_PICTURE = "An explorer: open the notebook in JupyterLab to use it."
