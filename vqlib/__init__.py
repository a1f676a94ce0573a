"""Discrete image synthesis on skin lesions. In reading order: dataset, augment, quantizer, vqvae, gpt, windowed, train, metrics;
then presets, files, distributed."""
