"""From the report to the library, one change at a time, and what limits both.

    python -m vqlib.studies vqvae      # runs the rows that have no result yet

Each `*_study.py` is one table: its rows, the setup that its rows share, and its measurement.
`quantizers`, `priors` and `transform_coding` hold the alternatives that rows need, `runner` runs
rows and keeps results as JSON, `results` reads them back as tables and figures. `principal_axes`
asks where the bits of a code go; it needs a trained VQ-VAE and keeps no result.
"""
