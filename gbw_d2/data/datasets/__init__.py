"""The datasets; importing this package registers them. A new one is one file and one line here."""

from gbw_d2.data.datasets import cityscapes, gta5, synthia, toy

__all__ = ["cityscapes", "gta5", "synthia", "toy"]
