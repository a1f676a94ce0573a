"""Discrete image synthesis on skin lesions. In reading order: data, dataset, augment, quantizer, vqvae, gpt, train, metrics;
then presets, files, plots, widgets, synthetic."""
