"""gcl: contrastive fine-tuning of image-text models for product retrieval."""

__version__ = "0.1.0"
