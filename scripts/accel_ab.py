"""Entry point of the comparison in the Script menu: the work is in lib_accel/webui."""

from lib_accel.webui.ab.script import AccelAB

__all__ = ["AccelAB"]
