"""The datasets; importing this package registers them. A new one is one file and one line here."""

from gbw_d2.data.datasets import cityscapes, synthia, toy

__all__ = ["cityscapes", "synthia", "toy"]
