"""What the notebooks show: figures, and the same behind sliders."""
