"""Discrete image synthesis on skin lesions: VQ-VAE, a GPT over its codes, training and evaluation.

The modules, in reading order: data, dataset, augment, quantizer, vqvae, gpt, windowed, train, metrics; then presets,
files, plots, widgets, synthetic.
"""
