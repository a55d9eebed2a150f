"""Train ResNet-50 from scratch on ImageNet-Mini or any folder of images."""

__version__ = "0.1.0"
